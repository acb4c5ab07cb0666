//! The program `roost`: the agent and the command line, both in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    roost::cli::main(std::env::args_os())
}
