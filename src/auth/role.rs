//! Who a credential is made for: four named sets of scopes. A role is a way to choose scopes and is kept nowhere; what a
//! credential may do is said by its scopes alone.

use std::{fmt, str::FromStr};

use super::{Scope, Scopes};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    ClientApp,
    ComplianceOfficer,
    Operator,
    Admin,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::ClientApp, Self::ComplianceOfficer, Self::Operator, Self::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientApp => "client-app",
            Self::ComplianceOfficer => "compliance-officer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    pub fn scopes(self) -> Scopes {
        match self {
            Self::ClientApp => Scopes::client_app(),
            // Looks people up, ends consents, erases, answers requests; has no business with a face.
            Self::ComplianceOfficer => {
                let scopes = [Scope::Subjects, Scope::Consents, Scope::DataSubjectRequests, Scope::AuditRead];
                scopes.into_iter().collect()
            }
            // What any credential opens says how the service is doing, and of people no more than ids.
            Self::Operator => Scopes::default(),
            // Hands out credentials, none of which can do more than their maker. Whoever can make a key can use it; to
            // leave scopes out here would only hide that.
            Self::Admin => Scope::ALL.into_iter().collect(),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a role; roles are client-app, compliance-officer, operator and admin")]
pub struct InvalidRole {
    pub text: String,
}

impl FromStr for Role {
    type Err = InvalidRole;

    fn from_str(text: &str) -> Result<Self, InvalidRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| InvalidRole { text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_round_trip_through_their_names() {
        for role in Role::ALL {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        let refusal = "root".parse::<Role>().unwrap_err();
        assert!(Role::ALL.iter().all(|role| refusal.to_string().contains(role.as_str())));
    }

    #[test]
    fn only_an_admin_makes_credentials_and_an_operator_reaches_nobodys_data() {
        let may = |scope| Role::ALL.into_iter().filter(move |role| role.scopes().contains(scope)).collect::<Vec<_>>();
        assert_eq!(may(Scope::Admin), [Role::Admin]);
        assert!(Role::Operator.scopes().is_empty());
        assert!(Role::ALL.iter().all(|role| Role::Admin.scopes().covers(&role.scopes())), "an admin can hand out each");
    }

    #[test]
    fn an_officer_has_no_business_with_faces() {
        let officer = Role::ComplianceOfficer.scopes();
        assert!(
            [Scope::FacesEnrol, Scope::FacesVerify, Scope::FacesIdentify].iter().all(|face| !officer.contains(*face))
        );
        assert!(officer.contains(Scope::DataSubjectRequests) && officer.contains(Scope::AuditRead));
    }
}
