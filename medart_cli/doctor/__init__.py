"""`medart doctor`: what this machine has and lacks. May import libraries, never another command."""
