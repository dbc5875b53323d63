Feature: Models on a hive
  A hive keeps models, says what they are from their own files, and lets go of none that is in use.

  Scenario: A model is brought, described and listed
    Given a hive
    When ModelDownload is asked for with {"model": "builtin:bee-tiny"}
    Then it completes with "status" = "available"
    And it tells model_download_start, model_download_progress, model_download_complete
    And ModelList answers "models.0.architecture" = "llama"
    And ModelGet of {"model_id": "bee-tiny"} answers "model.parameter_count" = "2.3M"
    And ModelGet of {"model_id": "bee-tiny"} answers "model.quantization" = "Q8_0"

  Scenario: The same model again is there already
    Given a hive with the model bee-tiny
    When ModelDownload is asked for with {"model": "builtin:bee-tiny"}
    Then it completes with "model_id" = "bee-tiny"
    And it tells model_download_exists

  Scenario: A source that is none is refused with those that are
    Given a hive
    When ModelDownload is asked for with {"model": "nonsense"}
    Then it fails as "invalid_request" and says "hf:ORG/REPO"

  Scenario: A model that is not there is told with a name that is
    Given a hive with the model bee-tiny
    When ModelGet is asked for with {"model_id": "bee-tinny"}
    Then it fails as "model_not_found" and says "bee-tiny"

  Scenario: A model that is whole is verified
    Given a hive with the model bee-tiny
    When ModelVerify is asked for with {"model_id": "bee-tiny"}
    Then it completes with "verified" = true
    And it tells model_verify_start, model_verify_progress, model_verify_complete

  Scenario: A model whose file has changed is found out
    Given a hive with the model bee-tiny
    And one byte of the model's file was changed
    When ModelVerify is asked for with {"model_id": "bee-tiny"}
    Then it does not say that all is well
    And ModelGet of {"model_id": "bee-tiny"} answers "model.status" = "failed"

  Scenario: A model is deleted
    Given a hive with the model bee-tiny
    When ModelDelete is asked for with {"model_id": "bee-tiny"}
    Then it completes with "model_id" = "bee-tiny"
    And it tells model_delete_start, model_delete_complete
    And ModelList answers "models" = []

  Scenario: A model in use stays
    Given a hive with the model bee-tiny
    And a worker "w1" of that model
    When ModelDelete is asked for with {"model_id": "bee-tiny"}
    Then it fails as "model_in_use" and says "w1"

  Scenario: Several are deleted, each by itself
    Given a hive with the model bee-tiny
    When ModelDeleteBatch is asked for with {"model_ids": ["nothing", "bee-tiny"]}
    Then it completes with "deleted" = ["bee-tiny"]
    And its answer's "failed.0.code" is "model_not_found"

  Scenario: A model is held in memory and let go
    Given a hive with the model bee-tiny
    When ModelPreload is asked for with {"model_id": "bee-tiny"}
    Then it completes with "resident_bytes" = 2458208
    And ModelPreloadStats answers "cached_models" = ["bee-tiny"]
    When ModelPreloadEvict is asked for with {"model_id": "bee-tiny"}
    Then it completes with "model_id" = "bee-tiny"
    And ModelPreloadStats answers "cached_models" = []
