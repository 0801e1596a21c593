"""Who may ask for what: tokens and their scopes, browsers' log-in, and the one table of every route's scope."""
