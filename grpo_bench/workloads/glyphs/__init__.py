"""The built-in workload of late detail: two faint letters on a loud background, and a judge that reads them."""
