"""What is remembered: answers, who asked for what, and the images themselves."""
