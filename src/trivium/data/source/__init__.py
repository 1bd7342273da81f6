"""One file a format; every source yields `Sample`, at random places, and counts without decoding."""
