"""`medart sample`: trained model and prompts -> images. May import libraries, never another command."""
