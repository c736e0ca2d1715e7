"""What stands behind each word of the command line; imports no JAX until a command needs it."""
