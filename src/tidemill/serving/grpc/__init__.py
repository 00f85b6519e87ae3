"""The Open Inference Protocol v2 over gRPC. Loaded by workers whose setting grpc_port is set."""
