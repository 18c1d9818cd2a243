"""Results as one file that can be sent, and checked by somebody who does not trust it."""
