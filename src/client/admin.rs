//! Members, maintenance and users: each call one message there, one back.

use crate::client::Client;
use crate::client::Responses;
use crate::client::Result;
use crate::client::channel::Method;
use crate::proto::etcdserverpb::*;

macro_rules! calls {
    ($(#[$doc:meta])* $group:ident, $service:literal: $($kind:ident $call:ident = $rpc:literal ($request:ty) -> $response:ty;)*) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $group(Client);

        impl $group {
            pub(super) fn new(client: Client) -> $group {
                $group(client)
            }

            $(
                pub async fn $call(&self, request: $request) -> Result<$response> {
                    const METHOD: Method<$request, $response> =
                        Method::$kind(concat!("/etcdserverpb.", $service, "/", $rpc));
                    self.0.unary(&METHOD, &request).await
                }
            )*
        }
    };
}

calls! {
    /// Who the members are.
    Cluster, "Cluster":
    write add = "MemberAdd" (MemberAddRequest) -> MemberAddResponse;
    write remove = "MemberRemove" (MemberRemoveRequest) -> MemberRemoveResponse;
    write update = "MemberUpdate" (MemberUpdateRequest) -> MemberUpdateResponse;
    write promote = "MemberPromote" (MemberPromoteRequest) -> MemberPromoteResponse;
    read list = "MemberList" (MemberListRequest) -> MemberListResponse;
}

calls! {
    /// How a member is, and what keeps it well. Most of these concern the member that is asked.
    Maintenance, "Maintenance":
    read alarm = "Alarm" (AlarmRequest) -> AlarmResponse;
    read status = "Status" (StatusRequest) -> StatusResponse;
    read hash = "Hash" (HashRequest) -> HashResponse;
    read hash_kv = "HashKV" (HashKvRequest) -> HashKvResponse;
    read move_leader = "MoveLeader" (MoveLeaderRequest) -> MoveLeaderResponse;
    write defragment = "Defragment" (DefragmentRequest) -> DefragmentResponse;
    write downgrade = "Downgrade" (DowngradeRequest) -> DowngradeResponse;
}

impl Maintenance {
    /// Streams the member's whole state, ending with its SHA-256.
    pub async fn snapshot(&self) -> Result<Responses<SnapshotResponse>> {
        const METHOD: Method<SnapshotRequest, SnapshotResponse> =
            Method::read("/etcdserverpb.Maintenance/Snapshot");
        let client = &self.0;
        client
            .channel
            .answers(&METHOD, SnapshotRequest {}, client.terms())
            .await
    }
}

calls! {
    /// Users, roles, and whether they matter.
    Auth, "Auth":
    write enable = "AuthEnable" (AuthEnableRequest) -> AuthEnableResponse;
    write disable = "AuthDisable" (AuthDisableRequest) -> AuthDisableResponse;
    write status = "AuthStatus" (AuthStatusRequest) -> AuthStatusResponse;
    write authenticate = "Authenticate" (AuthenticateRequest) -> AuthenticateResponse;
    write user_add = "UserAdd" (AuthUserAddRequest) -> AuthUserAddResponse;
    read user_get = "UserGet" (AuthUserGetRequest) -> AuthUserGetResponse;
    read user_list = "UserList" (AuthUserListRequest) -> AuthUserListResponse;
    write user_delete = "UserDelete" (AuthUserDeleteRequest) -> AuthUserDeleteResponse;
    write user_change_password = "UserChangePassword" (AuthUserChangePasswordRequest) -> AuthUserChangePasswordResponse;
    write user_grant_role = "UserGrantRole" (AuthUserGrantRoleRequest) -> AuthUserGrantRoleResponse;
    write user_revoke_role = "UserRevokeRole" (AuthUserRevokeRoleRequest) -> AuthUserRevokeRoleResponse;
    write role_add = "RoleAdd" (AuthRoleAddRequest) -> AuthRoleAddResponse;
    read role_get = "RoleGet" (AuthRoleGetRequest) -> AuthRoleGetResponse;
    read role_list = "RoleList" (AuthRoleListRequest) -> AuthRoleListResponse;
    write role_delete = "RoleDelete" (AuthRoleDeleteRequest) -> AuthRoleDeleteResponse;
    write role_grant_permission = "RoleGrantPermission" (AuthRoleGrantPermissionRequest) -> AuthRoleGrantPermissionResponse;
    write role_revoke_permission = "RoleRevokePermission" (AuthRoleRevokePermissionRequest) -> AuthRoleRevokePermissionResponse;
}
