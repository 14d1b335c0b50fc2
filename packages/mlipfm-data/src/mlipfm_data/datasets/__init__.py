"""The catalogue of public data sets: what each holds, at which level of theory, under which licence, in which layout and where, each fact with the
source it was read from. What no source gives is left out; where sources contradict each other, both are kept."""
