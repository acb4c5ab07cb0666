//! Unpacked layers on the disk.
