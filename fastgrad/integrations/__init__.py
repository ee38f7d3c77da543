"""What connects fastgrad to other libraries; each module imports its own only when it is called."""
