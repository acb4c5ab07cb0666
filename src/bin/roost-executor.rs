//! The executor of one pod. The agent starts it; see `roost::executor`.

use std::process::ExitCode;

fn main() -> ExitCode {
    roost::executor::program::main(std::env::args())
}
