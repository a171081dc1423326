"""What every part of the faces builds on: errors, optional packages, the ends of a command."""
