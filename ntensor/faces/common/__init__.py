"""What every part of the faces builds on: errors, optional packages, how a command begins and ends."""
