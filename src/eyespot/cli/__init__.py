"""The command line: a module for each subject, which `main` joins."""
