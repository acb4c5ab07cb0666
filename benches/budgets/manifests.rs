//! Budget 15: one of very many manifests changes.

use crate::engine::Engine;
use crate::measure::{Outcome, Samples, nanos, pause};
use crate::node::Node;
use crate::scene::{Fifo, LOUD_PROGRAM, Scene};
use crate::table::{Goal, Key, Table, Who};
use crate::{Options, starts};

/// All manifests are pods that run, in files of their own. One is added; then one after the other is
/// changed, so that its program has to be replaced: the old one tells when it is told to end, and
/// the new one when it runs.
pub(crate) fn measure(
    scene: &Scene,
    options: &Options,
    begun: &mut Fifo,
    table: &mut Table,
) -> Outcome<()> {
    let count = options.manifests;
    let mut node = Node::start(scene, "manifests");
    let name = |n: usize| format!("pod-{n}");
    for n in 0..count {
        node.draft(&name(n), &node.manifest(&name(n), 1, LOUD_PROGRAM));
    }
    begun.drain();
    let begin = nanos();
    let all: Vec<_> = (0..count).map(name).collect();
    node.begin(&all)?;
    let taken = begun.wait(count)? - begin;
    let key = Key::new(15, format!("{count} manifests → all their programs run"), "s");
    table.put(&key, Who::Roost, Some(taken as f64 / 1e9));

    let (mut added, mut acted, mut replaced) =
        (Samples::default(), Samples::default(), Samples::default());
    for round in 0..options.starts {
        let (pod, taken) = starts::one_more(&mut node, begun, round)?;
        added.push(taken);
        node.remove(&pod)?;
        let pod = name(round * count / options.starts);
        // Not a comment: the change has to mean something.
        let program = format!("{LOUD_PROGRAM}; exit {round}");
        node.draft(&pod, &node.manifest(&pod, 1, &program));
        pause();
        node.ended.drain();
        begun.drain();
        let begin = nanos();
        node.drop_in(&pod);
        acted.push(node.ended.wait(1)? - begin);
        replaced.push(begun.wait(1)? - begin);
    }
    // Budget 1 and 5 ms; where there is nothing to compare with, as the design's figures have it.
    let goal = match table.value(1, Who::Cri) {
        Some(_) => Goal::OfPeerPlus(Who::Cri, 0.15, 5.0),
        None => Goal::AtMost(20.0),
    };
    let rows = [
        (format!("one more than {count} manifests → its program runs"), added),
        (format!("one of {count} changed → the old program is told to end"), acted),
        (format!("one of {count} changed → the new program runs"), replaced),
    ];
    for (what, samples) in rows {
        let key = Key::new(15, what, "ms");
        table.goal(&key, &[goal]);
        table.put(&key, Who::Roost, samples.median());
        // What budget 1 was measured to be, to compare with.
        table.put(&key, Who::Cri, table.value(1, Who::Cri));
    }
    Ok(())
}
