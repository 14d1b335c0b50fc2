"""`mlipfm distill`: a student that is trained on frames of its own dynamics, labelled by the teacher."""
