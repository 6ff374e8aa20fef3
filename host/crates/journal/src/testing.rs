//! Records for tests, by small numbers, and disks that are full.

use std::sync::Arc;

use std::path::Path;
use std::process::Command;

use domain::account::Account;
use domain::energy::{Activity, Provenance, Reading, Root};
use domain::posting::{
    Call, CallKind, Claim, Finished, Posting, PostingKind, PostingRoot, ReceiptLine, Slice, Transfer,
    TransferKind, Unit,
};
use domain::{Digest, Epoch, InvocationId, NodeId, Outcome, TenantId, Usage};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{Record, frame};

pub(crate) const NODE: NodeId = NodeId(Uuid::from_u128(1));

/// The frame of a payload.
pub(crate) fn framed(payload: &[u8]) -> Vec<u8> {
    let write = |frame: Vec<u8>| Ok::<_, std::convert::Infallible>([&frame, payload].concat());
    frame::encode(write).unwrap()
}

pub(crate) fn at(second: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_800_000_000 + second).unwrap()
}

pub(crate) fn epoch(n: u128) -> Epoch {
    Epoch(Uuid::from_u128(0xe000 + n))
}

pub(crate) fn root() -> Root {
    Root {
        name: "modelled".into(),
        kind: "modelled".into(),
        provenance: Provenance::Modelled,
        uncertainty_ppm: 82_700,
        model_version: 1,
    }
}

pub(crate) fn reading_in(boot: u128, counter_uj: u64) -> Reading {
    Reading {
        root: root(),
        boot_id: Uuid::from_u128(boot),
        at_ns: counter_uj * 10,
        counter_uj,
        floor_uw: 5,
        state: vec![1, 2, counter_uj],
    }
}

pub(crate) fn reading(counter_uj: u64) -> Reading {
    reading_in(7, counter_uj)
}

pub(crate) fn started(n: u128, second: i64, counter_uj: u64) -> Record {
    Record::EpochStarted {
        epoch: epoch(n),
        node: NODE,
        boot_id: Uuid::from_u128(7),
        at: at(second),
        readings: vec![reading(counter_uj)],
    }
}

pub(crate) fn call(n: u128) -> Call {
    Call {
        invocation: InvocationId(Uuid::from_u128(n)),
        kind: CallKind::Infer,
        tenant: TenantId(Uuid::from_u128(9)),
        deployment: Some("tabular".parse().unwrap()),
        release: Some(1),
        started_at: at(0),
    }
}

pub(crate) fn usage(fuel: u64) -> Usage {
    Usage {
        fuel,
        cpu_ns: fuel * 2,
        ..Usage::default()
    }
}

pub(crate) fn finished(n: u128, fuel: u64) -> Finished {
    Finished {
        call: call(n),
        outcome: Outcome::Ok,
        usage: usage(fuel),
    }
}

pub(crate) fn claim(n: u128, fuel: u64, outcome: Option<Outcome>) -> Claim {
    Claim {
        call: call(n),
        usage: usage(fuel),
        outcome,
    }
}

pub(crate) fn slice(index: u64, second: i64, counter_uj: u64, claims: Vec<Claim>) -> Slice {
    let activity = Activity {
        machine_ns: 10,
        host_ns: 5,
        postgres_ns: 1,
    };
    Slice {
        index,
        at: at(second),
        readings: vec![reading(counter_uj)],
        activity,
        claims,
        faults: vec![],
        weights: vec![],
    }
}

pub(crate) fn line(n: u128, ordinal: u32, fuel: u64, outcome: Option<Outcome>) -> ReceiptLine {
    ReceiptLine {
        call: call(n),
        ordinal,
        outcome,
        usage: usage(fuel),
        energy_uj: Some(fuel),
    }
}

/// A window that ends at `to` with the counter at `end_uj`. Its hash tells it from all others.
pub(crate) fn window(n: u128, seq: u64, to: i64, end_uj: u64, lines: Vec<ReceiptLine>) -> Posting {
    Posting {
        node: NODE,
        epoch: epoch(n),
        seq,
        kind: PostingKind::Window,
        from: at(to - 1),
        to: at(to),
        fuel_schedule: 1,
        roots: vec![PostingRoot {
            root: root(),
            boot_id: Uuid::from_u128(7),
            start_uj: 0,
            end_uj,
            faults: vec![],
        }],
        transfers: vec![Transfer {
            ordinal: 0,
            credit: Account::Meter("modelled".into()),
            debit: Account::Idle,
            root: Some("modelled".into()),
            unit: Unit::Uj,
            kind: TransferKind::Idle,
            tenant: None,
            deployment: None,
            release: None,
            amount: 1,
            cites: None,
        }],
        lines,
        input_digest: Digest::ZERO,
        merkle_root: Digest::ZERO,
        prev_hash: Digest::ZERO,
        hash: Digest::of(format!("{n}/{seq}").as_bytes()),
    }
}

pub(crate) fn sealed(posting: Posting) -> Record {
    Record::Sealed(Arc::new(posting))
}

pub(crate) fn drained(n: u128, seq: u64) -> Record {
    Record::Drained { epoch: epoch(n), seq }
}

/// A small file system in memory, where this process may mount one; gone when dropped.
pub(crate) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub(crate) fn mount(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={bytes},mode=0700");
        is_done(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
                .arg(dir.path()),
        )
        .then_some(Self(dir))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn resize(&self, bytes: u64) {
        self.remount(&format!("size={bytes}"));
    }

    pub(crate) fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        assert!(is_done(
            Command::new("mount").args(["-o", &options]).arg(self.path())
        ));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        is_done(Command::new("umount").arg("--lazy").arg(self.path()));
    }
}

fn is_done(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}
