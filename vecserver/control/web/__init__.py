"""The page for people at ``/web``: pools to watch, to make and to delete, and environments to play.

Only ``mount`` is imported with the server; all that needs NiceGUI is imported when somebody asks for the page.
"""
