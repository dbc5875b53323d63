Feature: Downloads of a hive
  What was fetched is kept, whatever stops it, until it is given up.

  Scenario: A download is seen while it runs
    Given a hive
    And a download that has stopped half way
    Then DownloadList answers "downloads.0.status" = "downloading"
    And ModelGet of {"model_id": "m1"} answers "model.status" = "downloading"

  Scenario: A download is paused and gone on with from where it was
    Given a hive
    And a download that has stopped half way
    When DownloadPause is asked for with {"download_id": "m1"}
    Then it completes with "status" = "paused"
    And DownloadList answers "downloads.0.status" = "paused"
    When the server sends again
    And DownloadResume is asked for with {"download_id": "m1"}
    Then in the end ModelGet of {"model_id": "m1"} answers "model.status" = "available"
    And the server was not asked for all of it twice

  Scenario: A download that is given up leaves nothing
    Given a hive
    And a download that has stopped half way
    When DownloadCancel is asked for with {"download_id": "m1"}
    Then it completes
    And its answer's "bytes_downloaded" is more than 0
    And the download's own job has not completed
    And DownloadList answers "downloads" = []

  Scenario: A download that nobody began
    Given a hive
    When DownloadPause is asked for with {"download_id": "m1"}
    Then it fails as "download_not_found" and says "m1"
