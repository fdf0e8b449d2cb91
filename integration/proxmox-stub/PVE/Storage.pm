# Stands in for PVE::Storage: how PVE loads a plugin that is not its own, and what it does around the plugin's methods.
package PVE::Storage;

use strict;
use warnings;

use PVE::Storage::Plugin;

our ($VERSION_HERE, $AGE) = (15, 6);

sub APIVER { return $VERSION_HERE }
sub APIAGE { return $AGE }

# Options of QEMU's `nbd` driver that PVE lets pass, of its list of all drivers.
my %allowed = (nbd => { map { $_ => 1 } qw(driver server export reconnect-delay open-timeout) });

# Why PVE would not load it dies; what it would warn of is returned.
sub load {
    my ($module) = @_;

    eval "require $module; 1" or die "Error loading storage plugin \"$module\": $@";    ## no critic
    return check_api($module, 1);
}

sub check_api {
    my ($module, $register) = @_;

    die "not derived from PVE::Storage::Plugin\n" if !$module->isa('PVE::Storage::Plugin');
    die "does not provide an api() method\n" if !$module->can('api');
    my $version = $module->api();
    die "implements an API version newer than current ($version > " . APIVER() . ")\n" if $version > APIVER();
    my $min = APIVER() - APIAGE();
    die "API version too old, please update the plugin ($version < $min)\n" if $version < $min;
    $module->register() if $register;
    return $version == APIVER() ? '' : 'is implementing an older storage API, an upgrade is recommended';
}

sub plugin {
    my ($cfg, $volid) = @_;

    my ($storeid, $volname) = PVE::Storage::Plugin::parse_volume_id($volid);
    my $scfg = $cfg->{ids}->{$storeid} // die "storage '$storeid' does not exist\n";
    return (PVE::Storage::Plugin->lookup($scfg->{type}), $scfg, $storeid, $volname);
}

sub activate_storage {
    my ($cfg, $storeid) = @_;

    my $scfg = $cfg->{ids}->{$storeid};
    my $plugin = PVE::Storage::Plugin->lookup($scfg->{type});
    if (!eval { $plugin->check_connection($storeid, $scfg) }) {
        die "connection check for storage '$storeid' failed - $@\n" if $@;
        die "storage '$storeid' is not online\n";
    }
    $plugin->activate_storage($storeid, $scfg, {});
    return;
}

sub vdisk_alloc {
    my ($cfg, $storeid, $vmid, $fmt, $name, $size) = @_;

    my $scfg = $cfg->{ids}->{$storeid};
    my $plugin = PVE::Storage::Plugin->lookup($scfg->{type});
    $fmt ||= $plugin->get_formats($scfg, $storeid)->{default};
    activate_storage($cfg, $storeid);
    return "$storeid:" . $plugin->alloc_image($storeid, $scfg, $vmid, $fmt, $name, $size);
}

sub vdisk_free {
    my ($cfg, $volid) = @_;

    my ($plugin, $scfg, $storeid, $volname) = plugin($cfg, $volid);
    my (undef, $name, $vmid, undef, undef, $isBase, $format) = $plugin->parse_volname($volname);
    for my $image ($isBase ? $plugin->list_images($storeid, $scfg)->@* : ()) {
        my (undef, undef, undef, $basename, $basevmid) =
            $plugin->parse_volname((PVE::Storage::Plugin::parse_volume_id($image->{volid}))[1]);
        die "base volume '$volname' is still in use by linked clones\n"
            if defined($basename) && $basevmid == $vmid && $basename eq $name;
    }
    return $plugin->free_image($storeid, $scfg, $volname, $isBase, $format);
}

sub vdisk_list {
    my ($cfg, $storeid, $vmid, $vollist) = @_;

    my $scfg = $cfg->{ids}->{$storeid};
    my $images = PVE::Storage::Plugin->lookup($scfg->{type})->list_images($storeid, $scfg, $vmid, $vollist, {});
    return [sort { lc($a->{volid}) cmp lc($b->{volid}) } @$images];
}

sub vdisk_clone {
    my ($cfg, $volid, $vmid, $snap) = @_;

    my ($plugin, $scfg, $storeid, $volname) = plugin($cfg, $volid);
    return "$storeid:" . $plugin->clone_image($scfg, $storeid, $volname, $vmid, $snap);
}

sub vdisk_create_base {
    my ($cfg, $volid) = @_;

    my ($plugin, $scfg, $storeid, $volname) = plugin($cfg, $volid);
    return "$storeid:" . $plugin->create_base($storeid, $scfg, $volname);
}

sub volume_snapshot_rollback {
    my ($cfg, $volid, $snap) = @_;

    my ($plugin, $scfg, $storeid, $volname) = plugin($cfg, $volid);
    $plugin->volume_rollback_is_possible($scfg, $storeid, $volname, $snap);
    return $plugin->volume_snapshot_rollback($scfg, $storeid, $volname, $snap);
}

# What QEMU gets; `dropped` names what PVE would leave out of it.
sub qemu_blockdev_options {
    my ($cfg, $volid, $options) = @_;

    my ($plugin, $scfg, $storeid, $volname) = plugin($cfg, $volid);
    my $blockdev = $plugin->qemu_blockdev_options($scfg, $storeid, $volname, '10.0+pve0', $options);
    my $driver = $allowed{ $blockdev->{driver} } // die "blockdev driver '$blockdev->{driver}' not allowed\n";
    return ($blockdev, [grep { !$driver->{$_} } sort keys %$blockdev]);
}

sub path {
    my ($cfg, $volid, $snap) = @_;

    my ($plugin, $scfg, $storeid, $volname) = plugin($cfg, $volid);
    my ($path) = $plugin->path($scfg, $volname, $storeid, $snap);
    return $path;
}

sub storage_info {
    my ($cfg, $storeid) = @_;

    my $scfg = $cfg->{ids}->{$storeid};
    return PVE::Storage::Plugin->lookup($scfg->{type})->status($storeid, $scfg, {});
}

# The methods that PVE calls as they are: call($cfg, METHOD, VOLID, ARGS...).
sub call {
    my ($cfg, $method, $volid, @args) = @_;

    my ($plugin, $scfg, $storeid, $volname) = plugin($cfg, $volid);
    # Volumes of a list are activated one after another, with the storage first.
    return $plugin->$method($storeid, $scfg, $volname, @args)
        if $method =~ m/^(?:activate|deactivate|map|unmap)_volume$/;
    return $plugin->$method($scfg, $storeid, $volname, @args);
}

1;
