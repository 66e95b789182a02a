"""The server: faces over the run service. A face turns a wire protocol into calls of the service and back."""
