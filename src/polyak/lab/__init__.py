"""The laboratory: exact answers in float64, for small worlds where theory and estimates can be held against them."""
