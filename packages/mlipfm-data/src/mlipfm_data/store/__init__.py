"""The store: a data set on disk, as sealed shards of records and the manifest that names them."""
