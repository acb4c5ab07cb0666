//! What has gone through the interfaces of pods, as the kernel counts it in their namespaces.
//!
//! Not here: when that is read (`usage`), and how it is shown (`api::metrics`).

use std::path::Path;

/// The loopback interface: what a pod says to itself is no traffic.
const LOOPBACK: &str = "lo";
/// Most interfaces of one pod that are told of; programs may make more of their own.
const INTERFACES_MAX: usize = 16;

/// What one interface of a pod has received and sent since it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traffic {
    /// Its name in the pod.
    pub interface: String,
    /// Received.
    pub received: Counts,
    /// Sent.
    pub sent: Counts,
}

/// What is counted of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Of those that were faulty.
    pub errors: u64,
    /// Of those that there was no room for.
    pub dropped: u64,
}

/// What has gone through the interfaces of the network namespace that a process is in; nothing if it
/// is gone.
pub(super) fn of_process(pid: u32) -> Vec<Traffic> {
    let path = Path::new("/proc").join(pid.to_string()).join("net/dev");
    std::fs::read_to_string(path).map(|text| parse(&text)).unwrap_or_default()
}

/// `/proc/net/dev`: two lines of headings, and a line for each interface.
fn parse(text: &str) -> Vec<Traffic> {
    let line = |line: &str| {
        let (interface, numbers) = line.split_once(':')?;
        let interface = interface.trim().to_owned();
        let numbers = numbers.split_whitespace().map(str::parse);
        let numbers: Vec<u64> = numbers.collect::<Result<_, _>>().ok()?;
        // Eight columns are what was received; the first four of each half are those told of.
        let counts = |at: usize| {
            let [bytes, packets, errors, dropped] = numbers.get(at..at + 4)?.try_into().ok()?;
            Some(Counts { bytes, packets, errors, dropped })
        };
        let traffic = Traffic { interface, received: counts(0)?, sent: counts(8)? };
        (traffic.interface != LOOPBACK).then_some(traffic)
    };
    text.lines().filter_map(line).take(INTERFACES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_interface_but_loopback_is_read_with_both_directions() {
        let text = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo
    lo: 999 9 0 0 0 0 0 0 999 9 0 0 0 0 0 0
  eth0:    1200      10    1    2    0     0          0         3      700       8    4    5    0     0       0          0
  what: is this
";
        let expected = Traffic {
            interface: "eth0".to_owned(),
            received: Counts { bytes: 1200, packets: 10, errors: 1, dropped: 2 },
            sent: Counts { bytes: 700, packets: 8, errors: 4, dropped: 5 },
        };
        assert_eq!(parse(text), [expected]);
    }
}
