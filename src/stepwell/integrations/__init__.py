"""Other frameworks' agents beside our own: each is an optional extra, and nothing else imports one."""
