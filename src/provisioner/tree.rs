//! The tree that layers on top of each other make.
