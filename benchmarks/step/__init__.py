"""One update of the models, measured in processes of its own beside other libraries."""
