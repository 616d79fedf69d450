"""What operators touch: settings, the command line, the worker service, reports, the doctor."""
