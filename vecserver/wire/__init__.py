"""What both ends share: errors, frames, messages, spaces, layout and session rules. Pure: no sockets, no threads."""
