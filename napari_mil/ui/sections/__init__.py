"""The six sections of the workbench; each completes its acts through the desk."""
