-- Sums of a tenant day by tag, by user and by upstream, beside the sums of all its requests. Stands before settle.lua;
-- NAME is the tenant's "PREFIX:{TENANT}:split_sums:YYYYMMDD", a hash:
--   "DIMENSION|VALUE|KEYID|MEASURE|MODEL"  integer; DIMENSION is "tag:KEY", "user", "upstream" or
--                                         "charge_class", whose only VALUE is "Correction"
--   "DIMENSION|VALUE", "DIMENSION"         1 for each value of a tag or of users that has sums; the number of these values
-- In VALUE, "%" is "%25" and "|" is "%7C". A value beyond VALUES_MAX of its dimension is summed as "_other".
-- A reservation and its record have tags (JSON object), user, and summed: the dimensions in whose sums they are, joined by
-- ",", each with "=_other" behind it if the value is summed as that. A record of several upstreams has upstream_usd:
-- "UPSTREAM:USD_MICROS", joined by ";". A record without summed is of an earlier version, and in none of these sums.
-- TTL      as the day's records
-- Clock    none
local VALUES_MAX = 1000
local SPLIT_MEASURES = {'requests', 'asked', 'delivered', 'withheld', 'lost', 'unconfirmed', 'usd_micros'}

-- Returns the tags and the user of a reservation as {dimension, value, is_other, is_new}. A record that exists has decided
-- whether its values have sums of their own, but not for the sums of another day, which have its correction.
local function read_splits(name, reservation, is_correction)
  redis.call('HLEN', name)
  local splits, tags = {}, reservation.tags and cjson.decode(reservation.tags) or {}
  for dimension, other in string.gmatch(reservation.summed or '', '([^,=]+)(=?[^,]*)') do
    local value = dimension == 'user' and reservation.user or tags[string.sub(dimension, 5)]
    value = string.gsub(value, '[%%|]', {['%'] = '%25', ['|'] = '%7C'})
    local split = {dimension = dimension, value = value, is_other = other ~= ''}
    if not reservation.entry or is_correction then
      local found = redis.call('HMGET', name, dimension .. '|' .. value, dimension)
      split.is_new = not found[1] and tonumber(found[2] or 0) < VALUES_MAX
      split.is_other = not found[1] and not split.is_new
    end
    table.insert(splits, split)
  end
  return splits
end

-- Returns the amounts of each upstream by name. The request counts at the first one with images. `charge` adds a call, and
-- returns the charged images of all so far and what they cost.
local function amounts_by_upstream(calls, asked, charge)
  local by, cost, first, first_with_images = {}, 0, nil, nil
  local pattern = '([^/;]+)/[^:;]*:(%d+),(%d+),(%d+),(%d+),?(%d*)'
  for upstream, delivered, withheld, lost, unconfirmed, own in string.gmatch(calls, pattern) do
    local amounts, _, total = by[upstream] or {}, charge(delivered, withheld, unconfirmed, own)
    local made = {delivered = delivered, withheld = withheld, lost = lost, unconfirmed = unconfirmed,
      usd_micros = total - cost}
    for measure, amount in pairs(made) do amounts[measure] = (amounts[measure] or 0) + amount end
    by[upstream], first, cost = amounts, first or amounts, total
    if delivered + withheld + lost + unconfirmed > 0 then first_with_images = first_with_images or amounts end
  end
  first = first_with_images or first
  if first then first.requests, first.asked = 1, asked end
  return by
end

-- Adds a settlement that has a record to its sums: `new` are all its measures, `moved` how much they differ from those of
-- an earlier settlement, `upstreams` is what amounts_by_upstream returns. Sets the fields of its record, and returns those
-- that its reservation keeps, and JSON of what it added by upstream.
local function add_splits(name, splits, reservation, new, moved, upstreams, is_correction)
  local function add(dimension, value, amounts, before)
    local differences = {}
    for _, measure in ipairs(SPLIT_MEASURES) do
      local difference = (amounts[measure] or 0) - (before[measure] or 0)
      local field = {dimension, value, reservation.key_id, measure, reservation.model}
      if difference ~= 0 then
        redis.call('HINCRBY', name, table.concat(field, '|'), difference)
        differences[measure] = difference
      end
    end
    return differences
  end
  local was_summed, settled = reservation['settled:upstreams'], cjson.decode(reservation['settled:upstreams'] or '{}')
  local summed, shares, moved_upstreams = {}, {}, {}
  for _, split in ipairs(splits) do
    if split.is_new then
      redis.call('HSET', name, split.dimension .. '|' .. split.value, 1)
      redis.call('HINCRBY', name, split.dimension, 1)
    end
    table.insert(summed, split.dimension .. (split.is_other and '=_other' or ''))
    add(split.dimension, split.is_other and '_other' or split.value, (was_summed or is_correction) and moved or new, {})
  end
  for upstream, amounts in pairs(settled) do
    if not upstreams[upstream] then moved_upstreams[upstream] = add('upstream', upstream, {}, amounts) end
  end
  for upstream, amounts in pairs(upstreams) do
    moved_upstreams[upstream] = add('upstream', upstream, amounts, settled[upstream] or {})
    table.insert(shares, upstream .. ':' .. string.format('%.0f', amounts.usd_micros))
  end
  if is_correction then add('charge_class', 'Correction', moved, {}) end
  table.sort(shares)
  reservation.summed = table.concat(summed, ',')
  reservation.upstream_usd = #shares > 1 and table.concat(shares, ';') or nil
  return {'summed', reservation.summed, 'settled:upstreams', cjson.encode(upstreams)}, cjson.encode(moved_upstreams)
end
