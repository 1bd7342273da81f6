"""One page that a person can read: everything a run folder says, in one self-contained HTML file."""
