"""The built-in mlflow."""
