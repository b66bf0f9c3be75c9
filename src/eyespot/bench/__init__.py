"""`eyespot bench`: measures this machine or a running server. Read `figures`, then `machine`, `server`, `report`."""
