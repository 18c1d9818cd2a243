"""What a run costs and where it ran: the ledger of counters and phases, and the record of the environment."""
