"""At home in the frameworks of existing services, one file each; the framework is imported with its file."""
