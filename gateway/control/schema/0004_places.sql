-- Where an organization stands and whether it is an operator is said when it is made. Not even the role that the API
-- acts as can change that later: whoever could would step out from under the one above it.
set local role tallygate_owner;

revoke update on organization from tallygate_control;
grant update (title, disabled, version, updated_at) on organization to tallygate_control;
