//! `velum clients`: credentials of apps. A secret is shown once, when it is made; only its keyed hash is kept.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use serde_json::json;

use super::{Failure, settings};
use crate::{
    audit::{Action, Actor, Event},
    auth::{self, Scopes, assertion::AssertionKey, jwt::LONGEST_LIFE},
    domain::{
        clock::{Clock, SystemClock},
        id::{ClientId, TenantId},
    },
    flows::clients::{issue, issue_for_key},
    secrets::{self, Secrets},
    settings::{Mode, Role, Settings},
    store::{Store, StoreError, Tenant},
};

#[derive(Subcommand)]
pub enum Command {
    /// Make a client and print its id and secret, once
    Create {
        /// Name or id of the tenant; a name that is not there yet makes a tenant
        #[arg(long)]
        tenant: String,
        /// What the app is called
        #[arg(long, default_value = "app")]
        name: String,
        /// Whom it is for: client-app, compliance-officer, operator or admin; each is a set of scopes
        #[arg(long, default_value_t = auth::Role::ClientApp, conflicts_with = "scopes")]
        role: auth::Role,
        /// Space-separated scopes, in place of a role
        #[arg(long)]
        scopes: Option<Scopes>,
        /// RSA public key (PEM) that the client signs with instead of knowing a secret (private_key_jwt, RFC 7523)
        #[arg(long, value_name = "FILE")]
        public_key: Option<PathBuf>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// List clients, never their secrets
    List {
        /// Name or id of one tenant; without it, all
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Give a client no more tokens; those it has end at once
    Disable {
        /// Name or id of its tenant
        #[arg(long)]
        tenant: String,
        /// The client's id
        client: ClientId,
    },
    /// Give a tenant a daily quota of its own
    Quota {
        /// Name or id of the tenant
        #[arg(long)]
        tenant: String,
        /// Enrolments and verifications a day; without it, VELUM_QUOTA_PER_DAY counts again
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000_000))]
        per_day: Option<u32>,
    },
}

pub async fn run(command: Command) -> Result<(), Failure> {
    let settings = settings(Role::Tool)?;
    let desk = Desk::open(&settings).await?;
    match command {
        Command::Create { tenant, name, role, scopes, public_key, json } => {
            if scopes.as_ref().is_some_and(Scopes::is_empty) {
                return Err(Failure::plain("--scopes names none; a client without any is made with --role operator"));
            }
            desk.create(&tenant, name, scopes.unwrap_or_else(|| role.scopes()), public_key, json).await
        }
        Command::List { tenant } => desk.list(tenant.as_deref()).await,
        Command::Disable { tenant, client } => desk.disable(&tenant, client).await,
        Command::Quota { tenant, per_day } => desk.set_quota(&tenant, per_day).await,
    }
}

struct Desk {
    store: Store,
    pepper: crate::auth::client_secret::Pepper,
}

impl Desk {
    async fn open(settings: &Settings) -> Result<Self, Failure> {
        if settings.mode == Mode::Embedded {
            secrets::ensure_development(settings, SystemClock.now()).map_err(failed)?;
        }
        let Secrets { pepper, blind_index, .. } = Secrets::read(&settings.secrets).map_err(failed)?;
        let url = settings.storage.database.expose_text();
        let store = Store::connect(url, 1, blind_index).await.map_err(failed)?;
        if settings.mode == Mode::Embedded {
            store.migrate().await.map_err(failed)?;
        }
        store.database().check_schema().await.map_err(failed)?;
        Ok(Self { store, pepper })
    }

    async fn create(
        &self,
        tenant: &str,
        name: String,
        scopes: Scopes,
        public_key: Option<PathBuf>,
        as_json: bool,
    ) -> Result<(), Failure> {
        let public_key = public_key.map(|path| read_public_key(&path)).transpose()?;
        let tenant = match self.tenant(tenant).await? {
            Some(tenant) => tenant,
            None => self.new_tenant(tenant).await?,
        };
        let now = SystemClock.now();
        let (client, secret) = match public_key {
            Some(key) => (issue_for_key(&key, name, &scopes, now), None),
            None => {
                let (client, credential) = issue(&self.pepper, name, &scopes, now);
                (client, Some(credential.secret))
            }
        };
        let (tenant_id, id, scopes) = (tenant.id.to_string(), client.id.to_string(), scopes.to_string());
        self.store.clients().create(tenant.id, client, Actor::operator()).await.map_err(failed)?;
        let secret = secret.as_ref().map(|secret| secret.expose_text());
        if as_json {
            let mut told = json!({ "tenant": tenant_id, "client_id": id, "scope": scopes });
            if let Some(secret) = secret {
                told["client_secret"] = secret.into();
            }
            println!("{told}");
            return Ok(());
        }
        println!("tenant         {tenant_id}\nclient_id      {id}");
        if let Some(secret) = secret {
            println!("client_secret  {secret}");
        }
        println!("scope          {scopes}");
        if secret.is_some() {
            println!("The secret is shown this once; keep it where the app reads its secrets.");
        }
        Ok(())
    }

    async fn list(&self, tenant: Option<&str>) -> Result<(), Failure> {
        let tenants = match tenant {
            Some(text) => vec![self.known_tenant(text).await?],
            None => self.store.tenants().list().await.map_err(failed)?,
        };
        for tenant in tenants {
            for client in self.store.clients().list(tenant.id).await.map_err(failed)? {
                let state = if client.disabled_at.is_some() { "disabled" } else { "active" };
                let scopes = client.scopes.join(" ");
                println!("{}  {}  {state:<8}  {}  [{scopes}]", tenant.name, client.id, client.name);
            }
        }
        Ok(())
    }

    async fn disable(&self, tenant: &str, client: ClientId) -> Result<(), Failure> {
        let tenant = self.known_tenant(tenant).await?;
        let now = SystemClock.now();
        let disabled =
            self.store.clients().disable(tenant.id, client, now + LONGEST_LIFE, now, Actor::operator()).await;
        disabled.map_err(|error| match error {
            StoreError::NotFound => Failure::plain(format!("{} has no client {client}", tenant.name)),
            other => failed(other),
        })?;
        println!("{client} is disabled");
        Ok(())
    }

    async fn set_quota(&self, tenant: &str, per_day: Option<u32>) -> Result<(), Failure> {
        let tenant = self.known_tenant(tenant).await?;
        let event = Event::of(Actor::operator(), Action::QuotaSet, tenant.id, SystemClock.now());
        self.store.usage().set_quota(tenant.id, per_day, event).await.map_err(failed)?;
        match per_day {
            Some(per_day) => println!("{}: {per_day} enrolments and verifications a day", tenant.name),
            None => println!("{}: as many a day as VELUM_QUOTA_PER_DAY says", tenant.name),
        }
        Ok(())
    }

    async fn tenant(&self, text: &str) -> Result<Option<Tenant>, Failure> {
        let tenants = self.store.tenants().list().await.map_err(failed)?;
        Ok(tenants.into_iter().find(|tenant| tenant.name == text || tenant.id.to_string() == text))
    }

    async fn known_tenant(&self, text: &str) -> Result<Tenant, Failure> {
        let missing = || Failure::plain(format!("there is no tenant {text}")).next("see `velum clients list`");
        self.tenant(text).await?.ok_or_else(missing)
    }

    async fn new_tenant(&self, name: &str) -> Result<Tenant, Failure> {
        if name.parse::<TenantId>().is_ok() || name.trim().is_empty() {
            return Err(Failure::plain(format!("there is no tenant {name}")).next("a new tenant is made by its name"));
        }
        let tenant = Tenant { id: TenantId::generate(), name: name.to_owned(), created_at: SystemClock.now() };
        self.store.tenants().create(&tenant, Actor::operator()).await.map_err(failed)?;
        Ok(tenant)
    }
}

fn read_public_key(path: &Path) -> Result<AssertionKey, Failure> {
    let unusable = |error: &dyn std::error::Error| Failure::plain(format!("{}: {error}", path.display()));
    let pem = fs::read_to_string(path).map_err(|error| unusable(&error))?;
    AssertionKey::from_pem(&pem).map_err(|error| unusable(&error))
}

fn failed(error: impl std::error::Error) -> Failure {
    Failure::because("the clients could not be reached", error)
}
