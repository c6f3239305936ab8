"""Who may do what: Host and Origin, keys and their rights, rates. Pure: no loop, no socket."""
