//! What idempotency keys keep.

use db::{Claim, Claimed, DbError, Kept, Scope};
use domain::{Digest, NodeId, Role, TenantId};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::support::*;

const MANAGE: Scope = Scope {
    tenant: Some(A),
    role: Role::TenantManage,
};
const PLATFORM: Scope = Scope {
    tenant: None,
    role: Role::Admin,
};
const AT: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

async fn claim(fixture: &Fixture, scope: Scope, at: OffsetDateTime) -> Claimed {
    let by = (NODE, Uuid::new_v4());
    fixture.db.idempotency_claim(scope, "once", by, at).await.unwrap()
}

async fn mine(fixture: &Fixture, scope: Scope, at: OffsetDateTime) -> Claim {
    match claim(fixture, scope, at).await {
        Claimed::Mine(claim) => claim,
        other => panic!("{other:?}"),
    }
}

fn kept() -> Kept {
    Kept {
        request: Digest::of(b"request"),
        status: 201,
        body: r#"{"name":"x"}"#.into(),
    }
}

fn is_gone(result: &Result<(), DbError>) -> bool {
    matches!(result, Err(DbError::NotFound("claim")))
}

#[sqlx::test(migrations = false)]
async fn a_result_comes_with_its_effect_and_stays(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let first = mine(&fixture, MANAGE, AT).await;
    assert!(matches!(claim(&fixture, MANAGE, AT).await, Claimed::Running));

    // Neither the effect nor the result of a transaction that failed.
    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    tx.idempotency_keep(&first, &kept()).await.unwrap();
    drop(tx);
    assert!(matches!(claim(&fixture, MANAGE, AT).await, Claimed::Running));

    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    tx.idempotency_keep(&first, &kept()).await.unwrap();
    tx.commit().await.unwrap();
    let years = AT + Duration::days(10_000);
    let Claimed::Kept(found) = claim(&fixture, MANAGE, years).await else {
        panic!("it is not kept")
    };
    assert_eq!(found, kept());
    fixture.db.idempotency_release(&first).await.unwrap();
    assert!(matches!(claim(&fixture, MANAGE, years).await, Claimed::Kept(_)));
    assert!(is_gone(&fixture.db.idempotency_keep(&first, &kept()).await));

    let mut login = fixture.login().await;
    for statement in ["update idempotency set status = 200", "delete from idempotency"] {
        let answer = attempt(&mut login, "wattle_tenant", Some(A), statement).await;
        assert_eq!(answer, Err("23001".into()), "{statement}");
    }
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn a_key_means_one_call_within_its_scope(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let scope = |tenant: Option<TenantId>, role| Scope { tenant, role };
    for scope in [
        MANAGE,
        scope(Some(A), Role::TenantInvoke),
        scope(Some(B), Role::TenantManage),
        PLATFORM,
    ] {
        let claim = mine(&fixture, scope, AT).await;
        fixture.db.idempotency_keep(&claim, &kept()).await.unwrap();
    }
    assert!(
        matches!(claim(&fixture, PLATFORM, AT).await, Claimed::Kept(_)),
        "null is a scope too"
    );
    let mut admin = fixture.db.admin_tx().await.unwrap();
    let other = Scope {
        role: Role::Billing,
        ..PLATFORM
    };
    let platform = mine(&fixture, other, AT).await;
    admin.idempotency_keep(&platform, &kept()).await.unwrap();
    admin.commit().await.unwrap();
    for key in ["", " ", "a b", "ü", &"x".repeat(256)] {
        let by = (NODE, Uuid::new_v4());
        let refused = fixture.db.idempotency_claim(MANAGE, key, by, AT).await;
        assert!(matches!(refused, Err(DbError::Check { .. })), "{key:?}");
    }
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn who_loses_a_claim_cannot_commit(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let first = mine(&fixture, MANAGE, AT).await;
    let soon = AT + Duration::minutes(10);
    assert!(matches!(claim(&fixture, MANAGE, soon).await, Claimed::Running));
    let second = mine(&fixture, MANAGE, soon + Duration::SECOND).await;
    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    assert!(is_gone(&tx.idempotency_keep(&first, &kept()).await));
    drop(tx);
    fixture.db.idempotency_release(&first).await.unwrap();
    fixture.db.idempotency_keep(&second, &kept()).await.unwrap();
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn a_claim_ends_with_its_host(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let done = Scope {
        role: Role::TenantRead,
        ..MANAGE
    };
    let claim_of_done = mine(&fixture, done, AT).await;
    fixture
        .db
        .idempotency_keep(&claim_of_done, &kept())
        .await
        .unwrap();
    mine(&fixture, MANAGE, AT).await;
    mine(&fixture, PLATFORM, AT).await;
    let release = async |node| {
        let mut tx = fixture.db.admin_tx().await.unwrap();
        let released = tx.idempotency_release(node).await.unwrap();
        tx.commit().await.unwrap();
        released
    };
    assert_eq!(release(NodeId(Uuid::from_u128(7))).await, 0, "another node's");
    assert_eq!(release(NODE).await, 2);
    let again = mine(&fixture, MANAGE, AT).await;
    fixture.db.idempotency_release(&again).await.unwrap();
    mine(&fixture, MANAGE, AT).await;
    assert!(matches!(claim(&fixture, done, AT).await, Claimed::Kept(_)));
    fixture.finish().await;
}
