//! Protobuf form of the messages.
