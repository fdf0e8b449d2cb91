# Storage plugin for Proxmox VE: virtual disks are volumes of a Windlass pool.
#
# QEMU reaches a volume by NBD through the daemon's unix socket. Everything else goes through its control socket.
# Nothing beyond Perl's core and PVE's own modules is used.

package PVE::Storage::Custom::WindlassPlugin;

use strict;
use warnings;

use File::Basename qw(dirname);
use File::Path     qw(make_path);
use JSON::PP       ();
use Time::HiRes    qw(sleep time);
use Windlass::API;

use PVE::Storage;
use PVE::Storage::Plugin;
use PVE::Tools qw(run_command);

use base qw(PVE::Storage::Plugin);

# The versions of PVE's storage API whose calls this plugin takes: PVE 7.1 to 9.
use constant API_OLDEST => 10;
use constant API_NEWEST => 15;
# From this one on QEMU gets its disks as `-blockdev`, with what qemu_blockdev_options() says.
use constant API_BLOCKDEV => 12;

# For so many seconds a guest waits when the daemon is restarted, before it gets I/O errors.
use constant RECONNECT_DELAY => 60;
# For so many seconds a verb that needs an unused volume is tried again.
our $UNUSED_WITHIN = 5;
# How long a storage daemon of QEMU may take to end.
use constant UNMAPPED_WITHIN => 10;
# For so many seconds it is waited for that a snapshot is in the pool. Windows bears a freeze of ten.
our $STORED_WITHIN = 3;
# How often stores are asked how full they are, while that is not known.
use constant LOOK_AGAIN => 600;
# How long QEMU may take to connect again to a volume that grew under its guest.
use constant BACK_WITHIN => 10;

# The snapshot of a template that its linked clones are made of.
use constant BASE => '__base__';

# Where PVE keeps the process ids of its QEMUs.
our $QEMU_RUN = '/run/qemu-server';
# Where volumes are shown as files.
our $MAPPED = '/run/windlass-pve';

my ($true, $false) = (JSON::PP::true, JSON::PP::false);

sub api {
    my $here = PVE::Storage::APIVER();
    return $here if $here >= API_OLDEST && $here <= API_NEWEST;
    # PVE compares this with what it bears, and says so.
    return API_NEWEST;
}

sub type {
    return 'windlass';
}

sub plugindata {
    return {
        content => [{ images => 1 }, { images => 1 }],
        format => [{ raw => 1 }, 'raw'],
        'sensitive-properties' => {},
    };
}

# `pool` is PVE's own: a property has one definition for all plugins.
sub properties {
    return {
        'windlass-home' => {
            description => 'State folder of the Windlass daemon, in which its control socket is.',
            type => 'string',
            pattern => '/[\w./-]+',
            default => '/var/lib/windlass',
        },
        'windlass-nbd' => {
            description => 'Unix socket where the Windlass daemon serves NBD. Default: nbd.sock in'
                . ' /run/windlass if it is there, else in the state folder.',
            type => 'string',
            pattern => '/[\w./-]+',
        },
        'windlass-settings' => {
            description => 'Settings of new volumes, as of `windlass volume set`, with spaces between them:'
                . ' for example "flush=pool compression=zstd".',
            type => 'string',
        },
    };
}

sub options {
    return {
        pool => { fixed => 1 },
        'windlass-home' => { optional => 1 },
        'windlass-nbd' => { optional => 1 },
        'windlass-settings' => { optional => 1 },
        content => { optional => 1 },
        nodes => { optional => 1 },
        disable => { optional => 1 },
        shared => { optional => 1 },
        bwlimit => { optional => 1 },
    };
}

# ---- what the configuration says --------------------------------------------------------------------------------

# A path of the configuration, untainted. It stands in QEMU's command line, where colons and commas mean something.
sub checked_path {
    my ($path, $property) = @_;

    my ($checked) = $path =~ m!^(/[\w./-]+)\z!
        or die "$property '$path' is no absolute path of letters, digits and '.', '_', '-'\n";
    return $checked;
}

sub home {
    my ($scfg) = @_;
    return checked_path($scfg->{'windlass-home'} // '/var/lib/windlass', 'windlass-home');
}

sub nbd_socket {
    my ($scfg) = @_;

    return checked_path($scfg->{'windlass-nbd'}, 'windlass-nbd') if defined($scfg->{'windlass-nbd'});
    # Where the packaged daemon has it.
    return '/run/windlass/nbd.sock' if !defined($scfg->{'windlass-home'}) && -S '/run/windlass/nbd.sock';
    return home($scfg) . '/nbd.sock';
}

sub pool {
    my ($scfg) = @_;

    my $name = $scfg->{pool} // '';
    my ($pool) = $name =~ m/^([a-z0-9][a-z0-9._-]{0,62})\z/ or die "'$name' is no name of a Windlass pool\n";
    return $pool;
}

my %daemons;

sub daemon {
    my ($scfg) = @_;

    my $socket = home($scfg) . '/control.sock';
    return $daemons{$socket} //= Windlass::API->new($socket);
}

# ---- names ------------------------------------------------------------------------------------------------------

# PVE's names have capitals, and one begins with `_`. Those of Windlass are of lower case and begin with a letter or a
# digit. A capital becomes `.` and its small letter. A name that would then begin wrongly gets `0` in front: no name of
# PVE has a dot or begins with a digit.
sub encoded {
    my ($name) = @_;

    my ($text) = $name =~ m/^([A-Za-z_][A-Za-z0-9_-]*)\z/
        or die "'$name' has characters that names in Windlass cannot have\n";
    $text =~ s/([A-Z])/'.' . lc($1)/ge;
    $text = "0$text" if $text !~ m/^[a-z]/;
    die "'$name' is too long: in Windlass it would have " . length($text) . " characters, and 63 are possible\n"
        if length($text) > 63;
    return $text;
}

# PVE's name; nothing for one that PVE cannot have given.
sub decoded {
    my ($text) = @_;

    my ($name) = $text =~ m/^0?([a-z._][a-z0-9._-]*)\z/ or return;
    $name =~ s/\.([a-z])/uc($1)/ge;
    my $again = eval { encoded($name) } // '';
    return $again eq $text ? $name : undef;
}

sub parse_volname {
    my ($class, $volname) = @_;

    # (vtype, name, vmid, basename, basevmid, isBase, format)
    return ('images', $3, $5, $1, $2, $4 eq 'base' ? 'base' : undef, 'raw')
        if $volname =~ m!^(?:(base-(\d+)-[A-Za-z0-9_-]+)/)?((base|vm)-(\d+)-[A-Za-z0-9_-]+)\z!;
    die "unable to parse windlass volume name '$volname'\n";
}

# POOL/VOLUME of one of PVE's volume names.
sub volume {
    my ($class, $scfg, $volname) = @_;
    return pool($scfg) . '/' . encoded(($class->parse_volname($volname))[1]);
}

# POOL/VOLUME or POOL/VOLUME@SNAPSHOT, which is also the name of its NBD export.
sub export {
    my ($class, $scfg, $volname, $snap) = @_;

    my $volume = $class->volume($scfg, $volname);
    return length($snap // '') ? "$volume\@" . encoded($snap) : $volume;
}

# ---- asking the daemon ------------------------------------------------------------------------------------------

sub info {
    my ($class, $scfg, $volname) = @_;
    return daemon($scfg)->call('volume-info', { path => $class->volume($scfg, $volname) }, 30);
}

sub exists_here {
    my ($class, $scfg, $volname) = @_;

    my (undef, $error) =
        daemon($scfg)->try_call('volume-info', { path => $class->volume($scfg, $volname) }, 30);
    return 1 if !$error;
    return 0 if $error->{kind} eq 'not_found';
    die "$error->{message}\n";
}

sub set_template {
    my ($class, $scfg, $volname, $is) = @_;

    my $assignments = ['template=' . ($is ? 'true' : 'false')];
    call_unused($scfg, 'volume-set', { path => $class->volume($scfg, $volname), assignments => $assignments });
    return;
}

# A verb that is refused while somebody is connected. That QEMU has ended, the daemon may hear a moment later than PVE.
sub call_unused {
    my ($scfg, $verb, $args) = @_;

    my $until = time() + $UNUSED_WITHIN;
    while (1) {
        my ($value, $error) = daemon($scfg)->try_call($verb, $args);
        return $value if !$error;
        die "$error->{message}\n" if $error->{kind} ne 'owned' || time() > $until;
        sleep(0.2);
    }
}

# ---- the storage ------------------------------------------------------------------------------------------------

# Of our pool, what is known here without asking stores.
sub known {
    my ($scfg) = @_;
    return of_pool($scfg, daemon($scfg)->call('watch', undef, 15)->{pools});
}

# The same after stores were asked. The daemon opens pools for it.
sub asked {
    my ($scfg) = @_;
    return of_pool($scfg, daemon($scfg)->call('pool-list', undef, 30));
}

sub of_pool {
    my ($scfg, $pools) = @_;

    my $pool = pool($scfg);
    my ($of) = grep { $_->{name} eq $pool } @$pools;
    return $of
        // die "the Windlass daemon of this host does not know pool '$pool': windlass pool add $pool --store URL\n";
}

sub check_connection {
    my ($class, $storeid, $scfg) = @_;

    daemon($scfg)->call('ping', undef, 10);
    return 1;
}

sub activate_storage {
    my ($class, $storeid, $scfg, $cache) = @_;

    return 1 if known($scfg)->{state} ne 'closed';
    my $asked = asked($scfg);
    return 1 if $asked->{state} ne 'closed';
    die "pool '$asked->{name}' cannot be opened: " . ($asked->{trouble} // 'see the log of the Windlass daemon') . "\n";
}

sub deactivate_storage {
    my ($class, $storeid, $scfg, $cache) = @_;
    return 1;
}

# The daemon looks every ten minutes. Buckets have no size of their own: `windlass pool set POOL capacity=SIZE` tells
# it. Where nobody can tell, all figures are 0.
my %looked;

sub status {
    my ($class, $storeid, $scfg, $cache) = @_;

    my $known = known($scfg);
    # A new pool. PVE asks every ten seconds, and stores are not to be asked that often.
    if (!defined($known->{free_bytes}) && time() - ($looked{ $known->{name} } // 0) > LOOK_AGAIN) {
        $looked{ $known->{name} } = time();
        $known = asked($scfg);
    }
    # What the volumes take may not be counted yet where the room is known.
    my ($free, $used) = ($known->{free_bytes}, $known->{used_bytes} // 0);
    return (0, 0, 0, 1) if !defined($free);
    return ($free + $used, $free, $used, 1);
}

sub get_identity {
    my ($class, $scfg, $storeid) = @_;
    return of_pool($scfg, daemon($scfg)->call('watch', undef, 15)->{open_pools})->{id};
}

# ---- volumes ----------------------------------------------------------------------------------------------------

sub list_images {
    my ($class, $storeid, $scfg, $vmid, $vollist, $cache) = @_;

    my $pool = pool($scfg);
    my $wanted = $vollist && { map { $_ => 1 } @$vollist };
    my $images = [];
    for my $line (daemon($scfg)->call('volume-list', { pool => $pool }, 30)->@*) {
        my $name = decoded(($line->{path} =~ m!^\Q$pool\E/(.*)\z!)[0] // '') // next;
        my (undef, undef, $owner) = eval { $class->parse_volname($name) } or next;
        my ($base, $parent) = origin($line, $pool);
        my $volid = "$storeid:" . ($base ? "$base/$name" : $name);
        next if $wanted ? !$wanted->{$volid} : defined($vmid) && $owner ne $vmid;
        my $image = {
            volid => $volid,
            name => $name,
            vmid => $owner,
            format => 'raw',
            # What the stores cannot tell now is none the less there: its name is not free.
            size => $line->{size} // 0,
            used => $line->{mapped_bytes} // 0,
            parent => $parent,
        };
        $image->{ctime} = int($line->{created_ms} / 1000) if defined($line->{created_ms});
        push @$images, $image;
    }
    return $images;
}

# Of what a volume is a clone, in PVE's names: (the template that it is a linked clone of, volume@snapshot).
sub origin {
    my ($line, $pool) = @_;

    my ($volume, $snap) = ($line->{origin} // '') =~ m!^\Q$pool\E/([^@]+)\@(.+)\z! or return;
    ($volume, $snap) = (decoded($volume), decoded($snap));
    return if !defined($volume) || !defined($snap);
    my $base = $snap eq BASE && $volume =~ m/^base-\d+-/ ? $volume : undef;
    return ($base, "$volume\@$snap");
}

sub alloc_image {
    my ($class, $storeid, $scfg, $vmid, $fmt, $name, $size_kib) = @_;

    die "unsupported format '$fmt': volumes of Windlass are raw\n" if defined($fmt) && $fmt ne 'raw';
    $name = $class->find_free_diskname($storeid, $scfg, $vmid, 'raw') if !length($name // '');
    die "illegal name '$name' - should be 'vm-$vmid-*'\n" if $name !~ m/^vm-\Q$vmid\E-/;
    my $args = {
        path => $class->volume($scfg, $name),
        size => $size_kib * 1024,
        settings => [split(' ', $scfg->{'windlass-settings'} // '')],
        if_absent => $false,
    };
    daemon($scfg)->call('volume-create', $args);
    return $name;
}

# Into the pool's trash, where it has one. Nothing of a template goes while linked clones need it.
sub free_image {
    my ($class, $storeid, $scfg, $volname, $isBase) = @_;

    my $is_template = $class->info($scfg, $volname)->{template};
    my $remove = {
        path => $class->volume($scfg, $volname),
        if_exists => $false,
        dry_run => $false,
        mode => 'trash',
        with_snapshots => $true,
    };
    $class->set_template($scfg, $volname, 0) if $is_template;
    eval { call_unused($scfg, 'volume-remove', $remove); };
    if (my $err = $@) {
        eval { $class->set_template($scfg, $volname, 1) } if $is_template;
        warn $@ if $@;
        die $err;
    }
    return;
}

# The volume becomes one that is only cloned, by the name of a template.
sub create_base {
    my ($class, $storeid, $scfg, $volname) = @_;

    my ($vtype, $name, $vmid, $basename, undef, $isBase) = $class->parse_volname($volname);
    die "create_base not possible with base image\n" if $isBase;
    my $newname = $name =~ s/^vm-/base-/r;
    my $newvolname = $basename ? "$basename/$newname" : $newname;

    $class->take_snapshot($scfg, $volname, BASE, $false);
    eval {
        $class->rename_to($scfg, $volname, $newname);
        eval { $class->set_template($scfg, $newvolname, 1); };
        if (my $err = $@) {
            eval { $class->rename_to($scfg, $newvolname, $name); };
            warn $@ if $@;
            die $err;
        }
    };
    if (my $err = $@) {
        # A later attempt is about what the disk holds then.
        eval { $class->volume_snapshot_delete($scfg, $storeid, $volname, BASE); };
        warn $@ if $@;
        die $err;
    }
    return $newvolname;
}

sub clone_image {
    my ($class, $scfg, $storeid, $volname, $vmid, $snap) = @_;

    my (undef, $basename, undef, undef, undef, $isBase) = $class->parse_volname($volname);
    my $of_snapshot = length($snap // '');
    die "$volname is not a base image and snapname is not provided\n" if !$isBase && !$of_snapshot;

    my $name = $class->find_free_diskname($storeid, $scfg, $vmid, 'raw');
    my $args = {
        from => $class->export($scfg, $volname, $of_snapshot ? $snap : BASE),
        to => $class->volume($scfg, $name),
        if_absent => $false,
    };
    daemon($scfg)->call('clone', $args);
    return $of_snapshot ? $name : "$basename/$name";
}

sub rename_to {
    my ($class, $scfg, $volname, $newname) = @_;

    daemon($scfg)
        ->call('volume-rename', { path => $class->volume($scfg, $volname), to => encoded($newname) });
    return;
}

sub rename_volume {
    my ($class, $scfg, $storeid, $source_volname, $target_vmid, $target_volname) = @_;

    my $basename = ($class->parse_volname($source_volname))[3];
    $target_volname //= $class->find_free_diskname($storeid, $scfg, $target_vmid, 'raw');
    my ($name, $vmid) = ($class->parse_volname($target_volname))[1, 2];
    die "illegal name '$target_volname' - should be 'vm-$target_vmid-*'\n" if $vmid ne $target_vmid;
    $class->rename_to($scfg, $source_volname, $name);
    return "$storeid:" . ($basename ? "$basename/$name" : $name);
}

sub volume_size_info {
    my ($class, $scfg, $storeid, $volname, $timeout) = @_;

    my $info = $class->info($scfg, $volname);
    return $info->{size} if !wantarray;
    return ($info->{size}, 'raw', $info->{mapped_bytes}, (origin($info, pool($scfg)))[1]);
}

sub volume_resize {
    my ($class, $scfg, $storeid, $volname, $size, $running, $snapname) = @_;

    die "resizing a snapshot is not supported by Windlass\n" if $snapname;
    my ($name, $vmid) = ($class->parse_volname($volname))[1, 2];
    # QEMU learns an export's size when it connects, and connects again only with `reconnect-delay`.
    die "$name cannot grow while VM $vmid runs: its QEMU would not connect to the disk again; shut it down first\n"
        if $running && !reconnects($vmid);
    my $clients = $running ? $class->info($scfg, $volname)->{clients} : 0;
    my $args = {
        path => $class->volume($scfg, $volname),
        size => 0 + $size,
        disconnect => $running ? $true : $false,
    };
    daemon($scfg)->call('volume-resize', $args);
    # PVE tells QEMU the new size next, which QEMU takes once it has connected again: with its next request.
    my $until = time() + BACK_WITHIN;
    while ($clients && $class->info($scfg, $volname)->{clients} < $clients && time() < $until) {
        eval { read_by_qemu($vmid, nbd_socket($scfg), $class->export($scfg, $volname)); };
        warn "VM $vmid sees the new size of $name with its next read or write: $@" if $@;
        sleep(0.2);
    }
    return;
}

# Has a guest's QEMU read a sector of the export: a disk that nobody uses makes no requests.
sub read_by_qemu {
    my ($vmid, $socket, $export) = @_;

    require PVE::QemuServer::Monitor;
    my $nodes = PVE::QemuServer::Monitor::mon_cmd($vmid, 'query-named-block-nodes');
    for my $node (grep { $_->{drv} eq 'nbd' && $_->{file} =~ m!/\Q$export\E\?socket=\Q$socket\E\z! } @$nodes) {
        my $command = qq(qemu-io $node->{'node-name'} "read 0 512");
        PVE::QemuServer::Monitor::mon_cmd($vmid, 'human-monitor-command', 'command-line' => $command);
    }
    return;
}

# Whether a guest's QEMU has its disks as `-blockdev`: PVE 9 and a machine version of 10.0 or later.
sub reconnects {
    my ($vmid) = @_;

    return 0 if PVE::Storage::APIVER() < API_BLOCKDEV;
    my ($pid) = first_line("$QEMU_RUN/$vmid.pid") =~ m/^(\d+)/ or return 0;
    return first_line("/proc/$pid/cmdline") =~ m/\0-blockdev\0/ ? 1 : 0;
}

# Nothing of a file that is not there.
sub first_line {
    my ($path) = @_;

    open(my $file, '<', $path) or return '';
    my $line = <$file>;
    close($file) or return '';
    return $line // '';
}

# ---- snapshots --------------------------------------------------------------------------------------------------

# The guest may be frozen until this returns. The snapshot stands at once; that it gets into the pool, as all that was
# written before it does, is waited for only a while.
sub volume_snapshot {
    my ($class, $scfg, $storeid, $volname, $snap) = @_;

    $class->take_snapshot($scfg, $volname, $snap, $true);
    my $paths = [$class->export($scfg, $volname, $snap)];
    eval { daemon($scfg)->call('snapshot-promise', { paths => $paths }, $STORED_WITHIN); };
    my $err = $@ or return;
    die $err if $err ne Windlass::API::LATE;
    warn "snapshot '$snap' of '$volname' is taken, and will be in the pool when what was written before it is\n";
    return;
}

sub take_snapshot {
    my ($class, $scfg, $volname, $snap, $no_wait) = @_;

    my $paths = [$class->export($scfg, $volname, $snap)];
    daemon($scfg)->call('snapshot-create', { paths => $paths, no_wait => $no_wait, if_absent => $false });
    return;
}

sub snapshots {
    my ($class, $scfg, $volname) = @_;

    my $args = { path => $class->volume($scfg, $volname), from => undef };
    return daemon($scfg)->call('snapshot-list', $args, 30)->@*;
}

# Newer snapshots stay: none is in the way.
sub volume_rollback_is_possible {
    my ($class, $scfg, $storeid, $volname, $snap, $blockers) = @_;

    my $name = encoded($snap);
    return 1 if grep { $_->{name} eq $name } $class->snapshots($scfg, $volname);
    die "can't rollback, snapshot '$snap' does not exist on '$volname'\n";
}

sub volume_snapshot_rollback {
    my ($class, $scfg, $storeid, $volname, $snap) = @_;

    my $args = { to => $class->export($scfg, $volname, $snap), keep => undef, disconnect => $false };
    call_unused($scfg, 'volume-roll-back', $args);
    return;
}

sub volume_snapshot_delete {
    my ($class, $scfg, $storeid, $volname, $snap, $running) = @_;

    my $args = {
        path => $class->export($scfg, $volname, $snap),
        if_exists => $true,
        dry_run => $false,
        mode => 'trash',
    };
    daemon($scfg)->call('snapshot-remove', $args);
    return;
}

sub volume_snapshot_info {
    my ($class, $scfg, $storeid, $volname) = @_;

    return {} if !$class->exists_here($scfg, $volname);
    my $info = {};
    for my $line ($class->snapshots($scfg, $volname)) {
        my $snap = decoded($line->{name}) // next;
        $info->{$snap} = {
            id => "$line->{created_ms}",
            timestamp => int($line->{created_ms} / 1000),
            'virtual-size' => $line->{size},
        };
    }
    return $info;
}

sub rename_snapshot {
    my ($class, $scfg, $storeid, $volname, $source_snap, $target_snap) = @_;
    die "snapshots of Windlass cannot be renamed\n";
}

# As a disk that loses power: a filesystem on it has its journal.
sub volume_snapshot_needs_fsfreeze {
    return 0;
}

sub volume_qemu_snapshot_method {
    my ($class, $storeid, $scfg, $volname) = @_;
    return 'storage';
}

sub volume_has_feature {
    my ($class, $scfg, $feature, $storeid, $volname, $snapname, $running, $opts) = @_;

    my $features = {
        snapshot => { current => 1, snap => 1 },
        clone => { base => 1, snap => 1 },
        template => { current => 1 },
        copy => { base => 1, current => 1, snap => 1 },
        sparseinit => { base => 1, current => 1 },
        rename => { current => 1 },
    };
    my $isBase = ($class->parse_volname($volname))[5];
    my $of = $snapname ? 'snap' : $isBase ? 'base' : 'current';
    return $features->{$feature}->{$of};
}

# ---- how QEMU reaches them --------------------------------------------------------------------------------------

sub path {
    my ($class, $scfg, $volname, $storeid, $snapname) = @_;

    my ($vtype, undef, $vmid) = $class->parse_volname($volname);
    my $path = 'nbd:unix:' . nbd_socket($scfg) . ':exportname=' . $class->export($scfg, $volname, $snapname);
    return wantarray ? ($path, $vmid, $vtype) : $path;
}

# There is no file: QEMU's tools take this as they take a path.
sub filesystem_path {
    my ($class, $scfg, $volname, $snapname) = @_;
    return $class->path($scfg, $volname, undef, $snapname);
}

# Numbers and texts become JSON as what they are.
sub qemu_blockdev_options {
    my ($class, $scfg, $storeid, $volname, $machine_version, $options) = @_;

    my $export = $class->export($scfg, $volname, $options->{'snapshot-name'});
    my $socket = nbd_socket($scfg);
    return {
        driver => 'nbd',
        server => { type => 'unix', path => "$socket" },
        export => "$export",
        'reconnect-delay' => int(RECONNECT_DELAY),
    };
}

# The first write makes this host the owner. That another one still is, is better said before QEMU starts.
sub activate_volume {
    my ($class, $storeid, $scfg, $volname, $snapname, $cache, $hints) = @_;

    if (length($snapname // '')) {
        my $name = encoded($snapname);
        return 1 if grep { $_->{name} eq $name } $class->snapshots($scfg, $volname);
        die "snapshot '$snapname' of volume '$storeid:$volname' does not exist\n";
    }
    my $info = $class->info($scfg, $volname);
    return 1 if $info->{state} ne 'owned' || !defined($info->{owner_id});
    return 1 if $info->{owner_id} eq daemon($scfg)->call('watch', undef, 15)->{host_id};
    die "volume '$storeid:$volname' is in use on host $info->{owner}: stop the guest there, or, when that host is dead,"
        . " windlass volume take-over $info->{path}\n";
}

# Any host may then open it.
sub deactivate_volume {
    my ($class, $storeid, $scfg, $volname, $snapname, $cache) = @_;

    $class->unmap_volume($storeid, $scfg, $volname, $snapname);
    return 1 if length($snapname // '') || !$class->info($scfg, $volname)->{open_here};
    call_unused($scfg, 'volume-release', { path => $class->volume($scfg, $volname) });
    return 1;
}

# A block device that is the volume, for what can use neither path() nor qemu_blockdev_options(): the emulator of a TPM.
# It is a loop device over a file that a storage daemon of QEMU shows by FUSE. That one bears restarts of ours, as QEMU
# does.
sub map_volume {
    my ($class, $storeid, $scfg, $volname, $snapname, $hints) = @_;

    my $file = $class->mapped_file($scfg, $volname, $snapname);
    my $of_snapshot = length($snapname // '');
    my $identity = $class->identity($scfg, $volname, $snapname);
    # What had the name before may still be shown there.
    $class->unmap_volume($storeid, $scfg, $volname, $snapname)
        if mapping_process($file) && first_line("$file.id") ne "$identity\n";
    if (!mapping_process($file)) {
        my $blockdev =
            $class->qemu_blockdev_options($scfg, $storeid, $volname, '', { 'snapshot-name' => $snapname });
        show_as_file($blockdev, $file, $of_snapshot, $identity);
    }
    my $device = eval { loop_device($file) // attach_loop_device($file, $of_snapshot); };
    return $device if $device;
    my $err = $@;
    eval { $class->unmap_volume($storeid, $scfg, $volname, $snapname); };
    warn $@ if $@;
    die $err;
}

# By what the name stands for now: of another volume or snapshot that has it later it is another text.
sub identity {
    my ($class, $scfg, $volname, $snapname) = @_;

    my $id = $class->info($scfg, $volname)->{id};
    return $id if !length($snapname // '');
    my $name = encoded($snapname);
    my ($snap) = grep { $_->{name} eq $name } $class->snapshots($scfg, $volname);
    return "$id\@" . ($snap // die "snapshot '$snapname' of volume '$volname' does not exist\n")->{id};
}

sub write_file {
    my ($path, $text) = @_;

    open(my $file, '>', $path) or die "cannot make $path: $!\n";
    print $file $text;
    close($file) or die "cannot make $path: $!\n";
    return;
}

sub show_as_file {
    my ($blockdev, $file, $read_only, $identity) = @_;

    make_path(dirname($file), { mode => oct(700) });
    write_file("$file.id", "$identity\n");
    write_file($file, '');

    $blockdev->{'node-name'} = 'volume';
    $blockdev->{'read-only'} = $read_only ? $true : $false;
    my $writable = $read_only ? 'off' : 'on';
    run_command(
        [
            'qemu-storage-daemon',
            '--daemonize',
            '--pidfile',
            "$file.pid",
            '--blockdev',
            JSON::PP->new->canonical->encode($blockdev),
            '--export',
            "type=fuse,id=volume,node-name=volume,mountpoint=$file,writable=$writable,allow-other=off",
        ],
        errmsg => "could not show $blockdev->{export} as a file",
    );
    return;
}

# The loop device over a file, if there is one.
sub loop_device {
    my ($file) = @_;

    my $device;
    run_command(
        ['losetup', '--noheadings', '--output', 'NAME', '--associated', $file],
        outfunc => sub { $device //= $1 if $_[0] =~ m!^(/dev/loop\d+)\s*$! },
    );
    return $device;
}

sub attach_loop_device {
    my ($file, $read_only) = @_;

    my @options = ('--find', '--direct-io=on', $read_only ? '--read-only' : ());
    run_command(['losetup', @options, $file], errmsg => "could not make a loop device of $file");
    my $device = loop_device($file) // die "the loop device of $file is gone\n";
    # The kernel keeps with a device node that an earlier user made it read-only.
    run_command(['blockdev', '--setrw', $device]) if !$read_only;
    return $device;
}

sub unmap_volume {
    my ($class, $storeid, $scfg, $volname, $snapname) = @_;

    my $file = $class->mapped_file($scfg, $volname, $snapname);
    my $pid = mapping_process($file) or return 1;
    my $device = loop_device($file);
    run_command(['losetup', '--detach', $device]) if $device;
    kill('TERM', $pid);
    my $until = time() + UNMAPPED_WITHIN;
    while (mapping_process($file)) {
        die "process $pid, which shows volume '$storeid:$volname' as $file, does not end: who has it open?\n"
            if time() > $until;
        sleep(0.05);
    }
    unlink($file, "$file.pid", "$file.id");
    return 1;
}

# Of one daemon: two storages may have pools of one name, on the stores of different daemons.
sub mapped_file {
    my ($class, $scfg, $volname, $snapname) = @_;

    my $daemon = home($scfg) =~ tr!/!%!r;
    return "$MAPPED/$daemon/" . $class->export($scfg, $volname, $snapname);
}

# The process id of the storage daemon that shows a volume as this file; nothing when none does.
sub mapping_process {
    my ($file) = @_;

    my ($pid) = first_line("$file.pid") =~ m/^(\d+)/ or return;
    return first_line("/proc/$pid/cmdline") =~ m/\0type=fuse,[^\0]*,mountpoint=\Q$file\E,/ ? $pid : undef;
}

# ---- streams ----------------------------------------------------------------------------------------------------

sub volume_export_formats {
    my ($class, $scfg, $storeid, $volname, $snapshot, $base_snapshot, $with_snapshots) = @_;

    return if $with_snapshots || defined($base_snapshot);
    return ('raw+size');
}

sub volume_import_formats {
    my ($class, $scfg, $storeid, $volname, $snapshot, $base_snapshot, $with_snapshots) = @_;
    return $class->volume_export_formats($scfg, $storeid, $volname, $snapshot, $base_snapshot, $with_snapshots);
}

sub check_stream {
    my ($what, $format, $base_snapshot, $with_snapshots) = @_;

    die "volume $what format '$format' is not available for Windlass\n" if $format ne 'raw+size';
    die "cannot $what volumes of Windlass together with their snapshots\n" if $with_snapshots;
    die "cannot $what an incremental stream of Windlass\n" if defined($base_snapshot);
    die "volume $what needs nbdcopy: apt install libnbd-bin\n" if !grep { -x "$_/nbdcopy" } qw(/usr/bin /bin);
    return;
}

sub nbd_uri {
    my ($class, $scfg, $volname, $snapname) = @_;
    return 'nbd+unix:///' . $class->export($scfg, $volname, $snapname) . '?socket=' . nbd_socket($scfg);
}

sub volume_export {
    my ($class, $scfg, $storeid, $fh, $volname, $format, $snapshot, $base_snapshot, $with_snapshots) = @_;

    check_stream('export', $format, $base_snapshot, $with_snapshots);
    my $size = $class->volume_size_info($scfg, $storeid, $volname);
    if (length($snapshot // '')) {
        my $of = $class->volume_snapshot_info($scfg, $storeid, $volname)->{$snapshot}
            or die "snapshot '$snapshot' of volume '$storeid:$volname' does not exist\n";
        $size = $of->{'virtual-size'};
    }
    PVE::Storage::Plugin::write_common_header($fh, $size);
    # By a pipe: of a file nbdcopy would take all, from its beginning.
    run_command(
        [['nbdcopy', '--', $class->nbd_uri($scfg, $volname, $snapshot), '-'], ['cat']],
        errmsg => 'could not export image',
        output => '>&' . fileno($fh),
    );
    return;
}

sub volume_import {
    my (
        $class,
        $scfg,
        $storeid,
        $fh,
        $volname,
        $format,
        $snapshot,
        $base_snapshot,
        $with_snapshots,
        $allow_rename,
    ) = @_;

    check_stream('import', $format, $base_snapshot, $with_snapshots);
    my ($name, $vmid, $isBase) = ($class->parse_volname($volname))[1, 2, 5];
    die "cannot import '$volname': a template is made of a volume that is here\n" if $isBase;
    if ($class->exists_here($scfg, $name)) {
        die "volume $name already exists\n" if !$allow_rename;
        warn "volume $name already exists - importing with a different name\n";
        $name = undef;
    }
    my $size = PVE::Storage::Plugin::read_common_header($fh);
    $name = $class->alloc_image($storeid, $scfg, $vmid, 'raw', $name, int(($size + 1023) / 1024));
    # A pipe gives what has come, and NBD is written in sectors: an image may also end within one.
    my $sectors = ['dd', 'iflag=fullblock', 'ibs=1024', 'obs=1M', 'conv=sync', 'status=none'];
    eval {
        run_command(
            [$sectors, ['nbdcopy', '--flush', '--', '-', $class->nbd_uri($scfg, $name)]],
            errmsg => 'could not import image',
            input => '<&' . fileno($fh),
        );
    };
    if (my $err = $@) {
        eval { $class->free_image($storeid, $scfg, $name); };
        warn $@ if $@;
        die $err;
    }
    return "$storeid:$name";
}

1;
