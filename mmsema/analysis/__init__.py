"""What tools/analysis_tools/ shows: operations, training pictures, the backbone's inside, results as pictures."""
