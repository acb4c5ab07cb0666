pub(super) fn step() {}
