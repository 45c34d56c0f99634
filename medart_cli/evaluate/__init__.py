"""`medart evaluate`: real and synthetic images -> report. May import libraries, never another command."""
