//! Who did what: no act without its line, no line without its act, and to each the lines that are theirs.

use db::{Action, Actor, AuditEvent, AuditFilter, Cut, DbError, Page};
use domain::{KeyId, Role, TenantId};
use serde_json::json;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use time::Duration;
use uuid::Uuid;

use crate::support::*;

const ADMIN: Actor = Actor::Key {
    id: KeyId(Uuid::from_u128(0xad)),
    role: Role::Admin,
};

/// One line for each: the platform by the bootstrap secret, A and B by an admin, A by its own key.
async fn trail(fixture: &Fixture) {
    let mut tx = fixture.db.admin_tx().await.unwrap();
    tx.audit(Actor::Bootstrap, None, Action::KeyCreate, ADMIN_ID, json!({}))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let mut tx = fixture.db.admin_tx().await.unwrap();
    for tenant in [A, B] {
        tx.audit(
            ADMIN,
            Some(tenant),
            Action::TenantCreate,
            tenant,
            json!({ "name": "t" }),
        )
        .await
        .unwrap();
    }
    tx.commit().await.unwrap();
    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    tx.audit(MANAGER, Action::DeploymentHide, "d", json!({}))
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

const ADMIN_ID: Uuid = Uuid::from_u128(0xad);

async fn all(fixture: &Fixture, filter: AuditFilter) -> Vec<AuditEvent> {
    let mut tx = fixture.db.billing_tx().await.unwrap();
    tx.audit_list(&filter, &Cut::first(500)).await.unwrap().items
}

async fn of(fixture: &Fixture, tenant: TenantId, filter: AuditFilter) -> Vec<AuditEvent> {
    let mut tx = fixture.db.tenant_tx(tenant).await.unwrap();
    tx.audit_list(&filter, &Cut::first(500)).await.unwrap().items
}

fn actions(events: &[AuditEvent]) -> Vec<(Option<TenantId>, Action)> {
    events.iter().map(|event| (event.tenant, event.action)).collect()
}

#[sqlx::test(migrations = false)]
async fn acts_are_read_newest_first_as_they_were_written(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    trail(&fixture).await;
    let events = all(&fixture, AuditFilter::default()).await;
    assert_eq!(
        actions(&events),
        [
            (Some(A), Action::DeploymentHide),
            (Some(B), Action::TenantCreate),
            (Some(A), Action::TenantCreate),
            (None, Action::KeyCreate),
        ]
    );
    assert_eq!(
        events.iter().map(|event| event.actor).collect::<Vec<_>>(),
        [MANAGER, ADMIN, ADMIN, Actor::Bootstrap]
    );
    assert_eq!((events[0].object.as_str(), &events[0].details), ("d", &json!({})));
    assert_eq!(events[1].details, json!({ "name": "t" }));
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn an_act_that_is_rolled_back_leaves_no_line(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    tx.audit(MANAGER, Action::DeploymentHide, "d", json!({}))
        .await
        .unwrap();
    drop(tx);
    assert_eq!(all(&fixture, AuditFilter::default()).await, []);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn a_line_that_cannot_be_kept_stops_its_act(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    for details in [json!([]), json!({ "long": "x".repeat(5000) })] {
        let mut tx = fixture.db.tenant_tx(A).await.unwrap();
        let refused = tx.audit(MANAGER, Action::DeploymentHide, "d", details).await;
        assert!(
            matches!(&refused, Err(DbError::Check { constraint }) if constraint == "audit_event_details_check"),
            "{refused:?}"
        );
    }
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn filters_narrow_and_a_tenant_stays_its_own(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    trail(&fixture).await;
    let none = AuditFilter::default;
    let last = all(&fixture, none()).await.remove(0).at;
    let cases = [
        (
            AuditFilter {
                tenant: Some(B),
                ..none()
            },
            1,
        ),
        (
            AuditFilter {
                key: ADMIN.key(),
                ..none()
            },
            2,
        ),
        (
            AuditFilter {
                action: Some(Action::TenantCreate),
                ..none()
            },
            2,
        ),
        (
            AuditFilter {
                action: Some(Action::KeyRevoke),
                ..none()
            },
            0,
        ),
        (
            AuditFilter {
                from: Some(last),
                ..none()
            },
            1,
        ),
        (
            AuditFilter {
                to: Some(last),
                ..none()
            },
            3,
        ),
        (
            AuditFilter {
                from: Some(last + Duration::MICROSECOND),
                ..none()
            },
            0,
        ),
        (
            AuditFilter {
                tenant: Some(A),
                key: ADMIN.key(),
                ..none()
            },
            1,
        ),
    ];
    for (filter, expected) in cases {
        assert_eq!(all(&fixture, filter.clone()).await.len(), expected, "{filter:?}");
    }
    // A tenant may not name another one.
    for filter in [
        none(),
        AuditFilter {
            tenant: Some(A),
            ..none()
        },
    ] {
        assert_eq!(
            actions(&of(&fixture, B, filter).await),
            [(Some(B), Action::TenantCreate)]
        );
    }
    assert_eq!(of(&fixture, A, none()).await.len(), 2);
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn a_tenant_writes_no_line_of_another(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    let mut login = fixture.login().await;
    let line = |tenant: &str| {
        format!(
            "insert into audit_event (actor, role, tenant, action, object, details)
             values ('recovery', 'admin', {tenant}, 'key.create', 'k', '{{}}')"
        )
    };
    let own = line(&format!("'{A}'"));
    for (statement, expected) in [
        (&own, Ok(1)),
        (&line(&format!("'{B}'")), Err("42501".to_owned())),
        (&line("null"), Err("42501".to_owned())),
    ] {
        let answer = attempt(&mut login, "wattle_tenant", Some(A), statement).await;
        assert_eq!(answer, expected, "{statement}");
    }
    for role in ["wattle_writer", "wattle_billing"] {
        assert_eq!(
            attempt(&mut login, role, None, &own).await,
            Err("42501".into()),
            "{role}"
        );
    }
    fixture.finish().await;
}

#[sqlx::test(migrations = false)]
async fn pages_go_on_through_ties_and_while_lines_are_added(_: PgPoolOptions, options: PgConnectOptions) {
    let fixture = Fixture::new(options).await;
    // Five lines of one instant.
    let mut tx = fixture.db.tenant_tx(A).await.unwrap();
    for number in 0..5 {
        tx.audit(MANAGER, Action::DeploymentHide, number, json!({}))
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
    let mut cut = Cut::first(2);
    let mut seen = Vec::new();
    let mut sizes = Vec::new();
    loop {
        let mut tx = fixture.db.tenant_tx(A).await.unwrap();
        let Page { items, next } = tx.audit_list(&AuditFilter::default(), &cut).await.unwrap();
        sizes.push(items.len());
        seen.extend(items.into_iter().map(|event| event.object));
        tx.audit(MANAGER, Action::DeploymentHide, "later", json!({}))
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let Some(next) = next else { break };
        cut.after = Some(next);
    }
    assert_eq!(seen, ["4", "3", "2", "1", "0"]);
    assert_eq!(sizes, [2, 2, 1]);
    fixture.finish().await;
}
