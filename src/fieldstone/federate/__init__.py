"""Federation: what is tuned at many sites becomes one, and no document moves."""
