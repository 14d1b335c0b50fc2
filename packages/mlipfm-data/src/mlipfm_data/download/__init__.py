"""Downloads of public data: resumed, verified, unpacked without trust in what comes."""
