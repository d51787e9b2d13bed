//! GNU make and compilers of C and C++: librdkafka, behind the server's feature `kafka`, is built with them.

use super::{State, apt};
use crate::error::Error;
use crate::process;

/// Finds them, or installs them. Where neither works, the server is checked and tested without Kafka.
pub(super) fn ensure() -> Result<State, Error> {
    let names = || "make, cc, c++".to_owned();
    if is_there() {
        return Ok(State::Present(names()));
    }
    let remedy = "install GNU make and compilers of C and C++";
    match (apt::install("make", &["make", "gcc", "g++", "libc6-dev"], remedy), is_there()) {
        (Ok(()), true) => Ok(State::Installed(names())),
        _ => Ok(State::NotNeeded("without make and a compiler of C, the server's queue in Kafka is left out")),
    }
}

/// Whether librdkafka can be built.
pub(crate) fn is_there() -> bool {
    ["make", "cc", "c++"].iter().all(|program| process::find_program(program).is_some())
}
