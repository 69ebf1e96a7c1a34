# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_kv_global_optspecs
    string join \n h/help V/version
end

function __fish_kv_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_kv_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_kv_using_subcommand
    set -l cmd (__fish_kv_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c kv -n "__fish_kv_needs_command" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_needs_command" -s V -l version -d 'Print version'
complete -c kv -n "__fish_kv_needs_command" -f -a "server" -d 'Runs a member of a cluster; etcd\'s flags apply'
complete -c kv -n "__fish_kv_needs_command" -f -a "ctl" -d 'The command line client'
complete -c kv -n "__fish_kv_needs_command" -f -a "utl" -d 'Works on data files, without a server'
complete -c kv -n "__fish_kv_needs_command" -f -a "bench" -d 'Loads a cluster and tells how it did'
complete -c kv -n "__fish_kv_needs_command" -f -a "completions" -d 'Prints completions for a shell'
complete -c kv -n "__fish_kv_needs_command" -f -a "man" -d 'Prints the man page'
complete -c kv -n "__fish_kv_using_subcommand server" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -l endpoints -d 'gRPC endpoints' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -s w -l write-out -d 'Set the output format (fields, json, protobuf, simple, table)' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -l dial-timeout -d 'Limit on login and on the first lease renewal' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -l command-timeout -d 'Limit on each short running command' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -l keepalive-time -d 'How often a connection in use is pinged' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -l keepalive-timeout -d 'How long the answer to a ping may take' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -l max-request-bytes -d 'Largest request in bytes (2 MiB if 0)' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -l max-recv-bytes -d 'Largest response in bytes (2 GiB if 0)' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -l insecure-transport -d 'Connect without TLS unless an endpoint or a certificate asks for it' -r -f -a "true\t''
false\t''"
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -l insecure-discovery -d 'Accept DNS records of endpoints without TLS' -r -f -a "true\t''
false\t''"
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -l cacert -d 'Verify server certificates with this CA bundle' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -l cert -d 'Identify this client with this TLS certificate file' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -l key -d 'The key file of the certificate' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -l user -d 'Log in as username[:password]' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -l password -d 'The password, if --user does not hold one' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -l auth-jwt-token -d 'Use this JWT token instead of --user and --password' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -s d -l discovery-srv -d 'Ask DNS for the SRV records of the endpoints in this domain' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -l discovery-srv-name -d 'Suffix of the service name in SRV records' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -l hex -d 'Print byte strings as hex encoded strings'
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -l debug -d 'Print settings and connection events on standard error'
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -l insecure-skip-tls-verify -d 'Do not verify server certificates (for tests only)'
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -f -a "get" -d 'Gets the key or a range of keys'
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -f -a "put" -d 'Puts the given key into the store'
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -f -a "del" -d 'Removes the specified key or range of keys [key, range_end)'
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -f -a "txn" -d 'Txn processes all the requests in one transaction'
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -f -a "compaction" -d 'Compacts the event history in etcd'
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -f -a "alarm" -d 'Alarm related commands'
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -f -a "defrag" -d 'Defragments the storage of the etcd members with given endpoints'
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -f -a "endpoint" -d 'Endpoint related commands'
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -f -a "move-leader" -d 'Transfers leadership to another etcd cluster member.'
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -f -a "watch" -d 'Watches events stream on keys or prefixes'
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -f -a "version" -d 'Prints the version of etcdctl'
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -f -a "lease" -d 'Lease related commands'
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -f -a "member" -d 'Membership related commands'
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -f -a "snapshot" -d 'Manages etcd node snapshots'
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -f -a "make-mirror" -d 'Makes a mirror at the destination etcd cluster'
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -f -a "lock" -d 'Acquires a named lock'
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -f -a "elect" -d 'Observes and participates in leader election'
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -f -a "auth" -d 'Enable or disable authentication'
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -f -a "user" -d 'User related commands'
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -f -a "role" -d 'Role related commands'
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -f -a "check" -d 'commands for checking properties of the etcd cluster'
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -f -a "downgrade" -d 'Downgrade related commands'
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -f -a "completion" -d 'Generate completion script'
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -f -a "options" -d 'Show the global command-line flags'
complete -c kv -n "__fish_kv_using_subcommand ctl; and not __fish_seen_subcommand_from get put del txn compaction alarm defrag endpoint move-leader watch version lease member snapshot make-mirror lock elect auth user role check downgrade completion options help" -f -a "help" -d 'Help about any command'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from get" -l consistency -d 'Linearizable(l) or Serializable(s)' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from get" -l order -d 'Order of results; ASCEND or DESCEND (ASCEND by default)' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from get" -l sort-by -d 'Sort target; CREATE, KEY, MODIFY, VALUE, or VERSION' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from get" -l limit -d 'Maximum number of results' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from get" -l rev -d 'Read at this revision' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from get" -l min-create-rev -d 'Minimum create revision' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from get" -l max-create-rev -d 'Maximum create revision' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from get" -l min-mod-rev -d 'Minimum modification revision' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from get" -l max-mod-rev -d 'Maximum modification revision' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from get" -l prefix -d 'Get keys with matching prefix'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from get" -l from-key -d 'Get keys that are greater than or equal to the given key in byte order'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from get" -l keys-only -d 'Get only the keys'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from get" -l count-only -d 'Get only the count'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from get" -l print-value-only -d 'Only write values when using the "simple" output format'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from get" -l stream -d 'Use the RangeStream RPC'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from get" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from put" -l lease -d 'lease ID (in hexadecimal) to attach to the key' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from put" -l prev-kv -d 'return the previous key-value pair before modification'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from put" -l ignore-value -d 'updates the key using its current value'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from put" -l ignore-lease -d 'updates the key using its current lease'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from put" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from del" -l prefix -d 'delete keys with matching prefix'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from del" -l from-key -d 'delete keys that are greater than or equal to the given key in byte order'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from del" -l prev-kv -d 'return deleted key-value pairs'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from del" -l range -d 'delete range of keys'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from del" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from txn" -s i -l interactive -d 'Say what is expected next'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from txn" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from compaction" -l physical -d '\'true\' to wait for compaction to physically remove all old revisions'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from compaction" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from alarm" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from alarm" -f -a "disarm" -d 'Disarms all alarms'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from alarm" -f -a "list" -d 'Lists all alarms'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from defrag" -l cluster -d 'use all endpoints from the cluster member list'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from defrag" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from endpoint" -l cluster -d 'use all endpoints from the cluster member list'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from endpoint" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from endpoint" -f -a "health" -d 'Checks the healthiness of endpoints specified in `--endpoints` flag'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from endpoint" -f -a "status" -d 'Prints out the status of endpoints specified in `--endpoints` flag'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from endpoint" -f -a "hashkv" -d 'Prints the KV history hash for each endpoint in --endpoints'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from move-leader" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from watch" -l rev -d 'Revision to start watching' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from watch" -s i -l interactive -d 'Interactive mode'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from watch" -l prefix -d 'Watch on a prefix if prefix is set'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from watch" -l prev-kv -d 'get the previous key-value pair before the event happens'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from watch" -l progress-notify -d 'get periodic watch progress notification from server'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from watch" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from version" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from lease" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from lease" -f -a "grant" -d 'Creates leases'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from lease" -f -a "revoke" -d 'Revokes leases'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from lease" -f -a "timetolive" -d 'Get lease information'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from lease" -f -a "list" -d 'List all active leases'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from lease" -f -a "keep-alive" -d 'Keeps leases alive (renew)'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from member" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from member" -f -a "add" -d 'Adds a member into the cluster'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from member" -f -a "remove" -d 'Removes a member from the cluster'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from member" -f -a "update" -d 'Updates a member in the cluster'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from member" -f -a "list" -d 'Lists all members in the cluster'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from member" -f -a "promote" -d 'Promotes a non-voting member in the cluster'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from snapshot" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from snapshot" -f -a "save" -d 'Stores an etcd node backend snapshot to a given file'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from make-mirror" -l prefix -d 'Key-value prefix to mirror' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from make-mirror" -l rev -d 'Revision to start from; past 1, only later changes are mirrored' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from make-mirror" -l max-txn-ops -d 'Largest number of operations in a transaction' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from make-mirror" -l dest-prefix -d 'Prefix of the keys in the destination cluster, if it is another one' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from make-mirror" -l dest-cert -d 'TLS certificate file for the destination cluster' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from make-mirror" -l dest-key -d 'TLS key file for the destination cluster' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from make-mirror" -l dest-cacert -d 'CA bundle to verify the destination cluster with' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from make-mirror" -l dest-insecure-transport -d 'Connect to the destination without TLS' -r -f -a "true\t''
false\t''"
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from make-mirror" -l dest-user -d 'Log in to the destination as username[:password]' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from make-mirror" -l dest-password -d 'The password, if --dest-user does not hold one' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from make-mirror" -l no-dest-prefix -d 'Mirror keys without their prefix'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from make-mirror" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from lock" -l ttl -d 'timeout for session' -r
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from lock" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from elect" -s l -l listen -d 'observation mode'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from elect" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from auth" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from auth" -f -a "disable" -d 'Disables authentication'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from auth" -f -a "enable" -d 'Enables authentication'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from auth" -f -a "status" -d 'Returns authentication status'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from user" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from user" -f -a "add" -d 'Adds a new user'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from user" -f -a "delete" -d 'Deletes a user'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from user" -f -a "get" -d 'Gets detailed information of a user'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from user" -f -a "list" -d 'Lists all users'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from user" -f -a "passwd" -d 'Changes password of user'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from user" -f -a "grant-role" -d 'Grants a role to a user'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from user" -f -a "revoke-role" -d 'Revokes a role from a user'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from role" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from role" -f -a "add" -d 'Adds a new role'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from role" -f -a "delete" -d 'Deletes a role'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from role" -f -a "get" -d 'Gets detailed information of a role'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from role" -f -a "list" -d 'Lists all roles'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from role" -f -a "grant-permission" -d 'Grants a key to a role'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from role" -f -a "revoke-permission" -d 'Revokes a key from a role'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from check" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from check" -f -a "perf" -d 'Check the performance of the etcd cluster'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from check" -f -a "datascale" -d 'Check the memory usage of holding data for different workloads on a given server endpoint.'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from downgrade" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from downgrade" -f -a "validate" -d 'Validate downgrade capability before starting downgrade'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from downgrade" -f -a "enable" -d 'Start a downgrade action to cluster'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from downgrade" -f -a "cancel" -d 'Cancel the ongoing downgrade action to cluster'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from completion" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from options" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand ctl; and __fish_seen_subcommand_from help" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand utl" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand bench; and not __fish_seen_subcommand_from put range txn-put txn-mixed watch watch-latency lease-keepalive" -l endpoints -d 'gRPC endpoints' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and not __fish_seen_subcommand_from put range txn-put txn-mixed watch watch-latency lease-keepalive" -l conns -d 'Total number of gRPC connections' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and not __fish_seen_subcommand_from put range txn-put txn-mixed watch watch-latency lease-keepalive" -l clients -d 'Total number of clients, each with one request under way' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and not __fish_seen_subcommand_from put range txn-put txn-mixed watch watch-latency lease-keepalive" -l user -d 'Name and password, as name:password' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and not __fish_seen_subcommand_from put range txn-put txn-mixed watch watch-latency lease-keepalive" -l dial-timeout -d 'Dial timeout; 0 waits as long as it takes' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and not __fish_seen_subcommand_from put range txn-put txn-mixed watch watch-latency lease-keepalive" -s w -l write-out -d 'Form of the report' -r -f -a "simple\t''
json\t''"
complete -c kv -n "__fish_kv_using_subcommand bench; and not __fish_seen_subcommand_from put range txn-put txn-mixed watch watch-latency lease-keepalive" -l precise -d 'Print figures with full precision'
complete -c kv -n "__fish_kv_using_subcommand bench; and not __fish_seen_subcommand_from put range txn-put txn-mixed watch watch-latency lease-keepalive" -l sample -d 'Add a line for every second of the run'
complete -c kv -n "__fish_kv_using_subcommand bench; and not __fish_seen_subcommand_from put range txn-put txn-mixed watch watch-latency lease-keepalive" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand bench; and not __fish_seen_subcommand_from put range txn-put txn-mixed watch watch-latency lease-keepalive" -f -a "put" -d 'Benchmark put'
complete -c kv -n "__fish_kv_using_subcommand bench; and not __fish_seen_subcommand_from put range txn-put txn-mixed watch watch-latency lease-keepalive" -f -a "range" -d 'Benchmark range'
complete -c kv -n "__fish_kv_using_subcommand bench; and not __fish_seen_subcommand_from put range txn-put txn-mixed watch watch-latency lease-keepalive" -f -a "txn-put" -d 'Benchmark txn-put'
complete -c kv -n "__fish_kv_using_subcommand bench; and not __fish_seen_subcommand_from put range txn-put txn-mixed watch watch-latency lease-keepalive" -f -a "txn-mixed" -d 'Benchmark a mixed load of txn-put & txn-range'
complete -c kv -n "__fish_kv_using_subcommand bench; and not __fish_seen_subcommand_from put range txn-put txn-mixed watch watch-latency lease-keepalive" -f -a "watch" -d 'Benchmark watch'
complete -c kv -n "__fish_kv_using_subcommand bench; and not __fish_seen_subcommand_from put range txn-put txn-mixed watch watch-latency lease-keepalive" -f -a "watch-latency" -d 'Benchmark watch latency'
complete -c kv -n "__fish_kv_using_subcommand bench; and not __fish_seen_subcommand_from put range txn-put txn-mixed watch watch-latency lease-keepalive" -f -a "lease-keepalive" -d 'Benchmark lease keepalive'
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from put" -l key-size -d 'Key size of put request' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from put" -l val-size -d 'Value size of put request' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from put" -l rate -d 'Maximum puts per second (0 is no limit)' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from put" -l total -d 'Total number of put requests' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from put" -l key-space-size -d 'Maximum possible keys' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from put" -l compact-interval -d 'Compact every so often' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from put" -l compact-index-delta -d 'How many revisions a compaction leaves' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from put" -l endpoints -d 'gRPC endpoints' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from put" -l conns -d 'Total number of gRPC connections' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from put" -l clients -d 'Total number of clients, each with one request under way' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from put" -l user -d 'Name and password, as name:password' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from put" -l dial-timeout -d 'Dial timeout; 0 waits as long as it takes' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from put" -s w -l write-out -d 'Form of the report' -r -f -a "simple\t''
json\t''"
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from put" -l sequential-keys -d 'Use sequential keys'
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from put" -l check-hashkv -d 'Ask every endpoint for its hash afterwards'
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from put" -l precise -d 'Print figures with full precision'
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from put" -l sample -d 'Add a line for every second of the run'
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from put" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from range" -l rate -d 'Maximum range requests per second (0 is no limit)' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from range" -l total -d 'Total number of range requests' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from range" -l consistency -d 'Linearizable(l) or Serializable(s)' -r -f -a "l\t''
s\t''"
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from range" -l limit -d 'Maximum number of results to return from range request (0 is no limit)' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from range" -l endpoints -d 'gRPC endpoints' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from range" -l conns -d 'Total number of gRPC connections' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from range" -l clients -d 'Total number of clients, each with one request under way' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from range" -l user -d 'Name and password, as name:password' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from range" -l dial-timeout -d 'Dial timeout; 0 waits as long as it takes' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from range" -s w -l write-out -d 'Form of the report' -r -f -a "simple\t''
json\t''"
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from range" -l count-only -d 'Only returns the count of keys'
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from range" -l keys-only -d 'Only returns the keys'
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from range" -l stream -d 'Read with RangeStream instead of Range'
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from range" -l paginate -d 'Read in pages of 10000 keys'
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from range" -l prefix -d 'Read every key that begins with the given one'
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from range" -l precise -d 'Print figures with full precision'
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from range" -l sample -d 'Add a line for every second of the run'
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from range" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-put" -l key-size -d 'Key size of txn put' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-put" -l val-size -d 'Value size of txn put' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-put" -l txn-ops -d 'Number of puts per txn' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-put" -l rate -d 'Maximum txns per second (0 is no limit)' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-put" -l total -d 'Total number of txn requests' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-put" -l key-space-size -d 'Maximum possible keys' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-put" -l endpoints -d 'gRPC endpoints' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-put" -l conns -d 'Total number of gRPC connections' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-put" -l clients -d 'Total number of clients, each with one request under way' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-put" -l user -d 'Name and password, as name:password' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-put" -l dial-timeout -d 'Dial timeout; 0 waits as long as it takes' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-put" -s w -l write-out -d 'Form of the report' -r -f -a "simple\t''
json\t''"
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-put" -l precise -d 'Print figures with full precision'
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-put" -l sample -d 'Add a line for every second of the run'
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-put" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-mixed" -l key-size -d 'Key size of mixed txn' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-mixed" -l val-size -d 'Value size of mixed txn' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-mixed" -l rate -d 'Maximum txns per second (0 is no limit)' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-mixed" -l total -d 'Total number of txn requests' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-mixed" -l end-key -d 'Read operation range end key' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-mixed" -l limit -d 'Read operation range result limit' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-mixed" -l key-space-size -d 'Maximum possible keys' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-mixed" -l consistency -d 'Linearizable(l) or Serializable(s)' -r -f -a "l\t''
s\t''"
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-mixed" -l rw-ratio -d 'Read/write ops ratio' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-mixed" -l endpoints -d 'gRPC endpoints' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-mixed" -l conns -d 'Total number of gRPC connections' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-mixed" -l clients -d 'Total number of clients, each with one request under way' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-mixed" -l user -d 'Name and password, as name:password' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-mixed" -l dial-timeout -d 'Dial timeout; 0 waits as long as it takes' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-mixed" -s w -l write-out -d 'Form of the report' -r -f -a "simple\t''
json\t''"
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-mixed" -l precise -d 'Print figures with full precision'
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-mixed" -l sample -d 'Add a line for every second of the run'
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from txn-mixed" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch" -l streams -d 'Total watch streams' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch" -l watch-per-stream -d 'Total watchers per stream' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch" -l watched-key-total -d 'Total number of keys to be watched' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch" -l put-rate -d 'Number of keys to put per second (0 is no limit)' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch" -l put-total -d 'Number of put requests' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch" -l key-size -d 'Key size of watch request' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch" -l endpoints -d 'gRPC endpoints' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch" -l conns -d 'Total number of gRPC connections' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch" -l clients -d 'Total number of clients, each with one request under way' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch" -l user -d 'Name and password, as name:password' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch" -l dial-timeout -d 'Dial timeout; 0 waits as long as it takes' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch" -s w -l write-out -d 'Form of the report' -r -f -a "simple\t''
json\t''"
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch" -l precise -d 'Print figures with full precision'
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch" -l sample -d 'Add a line for every second of the run'
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch-latency" -l streams -d 'Total watch streams' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch-latency" -l watchers-per-stream -d 'Total watchers per stream' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch-latency" -l put-total -d 'Total number of put requests' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch-latency" -l put-rate -d 'Number of keys to put per second' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch-latency" -l key-size -d 'Key size of watch response' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch-latency" -l val-size -d 'Value size of watch response' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch-latency" -l endpoints -d 'gRPC endpoints' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch-latency" -l conns -d 'Total number of gRPC connections' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch-latency" -l clients -d 'Total number of clients, each with one request under way' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch-latency" -l user -d 'Name and password, as name:password' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch-latency" -l dial-timeout -d 'Dial timeout; 0 waits as long as it takes' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch-latency" -s w -l write-out -d 'Form of the report' -r -f -a "simple\t''
json\t''"
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch-latency" -l prevkv -d 'PrevKV enabled on watch requests'
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch-latency" -l precise -d 'Print figures with full precision'
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch-latency" -l sample -d 'Add a line for every second of the run'
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from watch-latency" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from lease-keepalive" -l rate -d 'Maximum keep-alives per second (0 is no limit)' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from lease-keepalive" -l total -d 'Total number of lease keepalive requests' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from lease-keepalive" -l endpoints -d 'gRPC endpoints' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from lease-keepalive" -l conns -d 'Total number of gRPC connections' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from lease-keepalive" -l clients -d 'Total number of clients, each with one request under way' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from lease-keepalive" -l user -d 'Name and password, as name:password' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from lease-keepalive" -l dial-timeout -d 'Dial timeout; 0 waits as long as it takes' -r
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from lease-keepalive" -s w -l write-out -d 'Form of the report' -r -f -a "simple\t''
json\t''"
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from lease-keepalive" -l precise -d 'Print figures with full precision'
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from lease-keepalive" -l sample -d 'Add a line for every second of the run'
complete -c kv -n "__fish_kv_using_subcommand bench; and __fish_seen_subcommand_from lease-keepalive" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand completions" -s h -l help -d 'Print help'
complete -c kv -n "__fish_kv_using_subcommand man" -s h -l help -d 'Print help'
