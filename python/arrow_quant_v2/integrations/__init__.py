"""Plug-ins for other libraries; importing one of them registers it there."""
